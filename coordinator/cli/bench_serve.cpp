// `skein bench serve --url URL`: an open-loop load generator against any server of OpenAI's API.

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <limits>

#include "coordinator/cli/bench.h"
#include "coordinator/cli/bench_load.h"
#include "coordinator/cli/bench_report.h"
#include "coordinator/cli/options.h"
#include "coordinator/cli/remote.h"

namespace skein {
namespace {

struct BenchServeConfig {
  LoadConfig load = {.request_rate = std::numeric_limits<double>::infinity(),
                     .num_prompts = 100,
                     .timeout_seconds = 600};
  std::string url;
  std::string api_key_file;
  std::string input_len = "256";
  std::string output_len = "128";
  std::string token_ids = "32:255";
  std::string goodput;
  int64_t seed = 0;
  bool json = false;
};

OptionTable options(BenchServeConfig* config) {
  LoadConfig& load = config->load;
  RequestShape& shape = load.shape;
  OptionTable table;
  table.add_text("url", "URL", "of the server, http://host:port", &config->url);
  table.add_text("model", "NAME", "default: the first that the server names", &shape.model);
  table.add_choice("endpoint", "completions take token ids, chats take words (lengths are then about right)",
                   {"/v1/completions", "/v1/chat/completions"}, &shape.endpoint);
  table.add_text("api-key-file", "FILE", "the first line is sent as the key", &config->api_key_file);
  table.add_real("request-rate", "requests a second, at random times (Poisson); inf: all at once (default)", 0.001,
                 std::numeric_limits<double>::infinity(), &load.request_rate);
  table.add_integer("max-concurrency", "requests at once; later ones wait their turn; 0: no bound (default)", 0, 1 << 20,
                    &load.max_concurrency);
  table.add_integer("num-prompts", "requests to send (100)", 1, 100'000'000, &load.num_prompts);
  table.add_text("input-len", "N|LO:HI", "prompt tokens (256), or a range to draw from", &config->input_len);
  table.add_text("output-len", "N|LO:HI", "tokens to ask for (128), or a range to draw from", &config->output_len);
  table.add_text("token-ids", "LO:HI", "ids that prompts are drawn from (32:255)", &config->token_ids);
  table.add_switch("ignore-eos", "go on after an end-of-sequence token (default); --ignore-eos=false stops there", &shape.ignore_eos);
  table.add_real("temperature", "of sampling; default: 0, the likeliest token", 0, 2, &shape.temperature);
  table.add_choice("count-by", "how tokens of an event are counted: return_token_ids (default), continuous_usage_stats, or one each (plain OpenAI)",
                   {"ids", "usage", "events"}, &shape.count_by);
  table.add_text("goodput", "ttft:MS,itl:MS,e2e:MS", "count requests that meet all of these; itl is a request's mean",
                 &config->goodput);
  table.add_integer("seed", "of schedule, lengths and prompts (0)", 0, std::numeric_limits<int64_t>::max(), &config->seed);
  table.add_integer("timeout-seconds", "for one request (600)", 1, 1 << 20, &load.timeout_seconds);
  table.add_switch("json", "print one JSON object", &config->json);
  return table;
}

Status finish_config(BenchServeConfig* config) {
  LoadConfig& load = config->load;
  const auto read_range = [](const char* flag, const std::string& text, int least, LengthRange* range) -> Status {
    const Result<LengthRange> parsed = parse_range(text, least);
    if (!parsed.ok()) return parsed.status().within(flag);
    *range = *parsed;
    return {};
  };
  RETURN_IF_ERROR(read_range("--input-len", config->input_len, 1, &load.shape.input_len));
  RETURN_IF_ERROR(read_range("--output-len", config->output_len, 1, &load.shape.output_len));
  RETURN_IF_ERROR(read_range("--token-ids", config->token_ids, 0, &load.shape.token_ids));
  if (!config->goodput.empty()) {
    Result<GoodputLimits> limits = parse_goodput(config->goodput);
    if (!limits.ok()) return limits.status().within("--goodput");
    load.goodput = *limits;
  }
  load.shape.seed = static_cast<uint64_t>(config->seed);
  load.progress = !config->json;
  return {};
}

// A stream is a descriptor: takes as many as the system gives.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

Result<LoadResult> measure(BenchServeConfig* config) {
  ASSIGN_OR_RETURN(const HttpTarget target, remote_target(config->url, config->api_key_file));
  std::string& name = config->load.shape.model;
  if (name.empty()) {
    ASSIGN_OR_RETURN(name, first_model(target));
  } else {
    RETURN_IF_ERROR(http_get(target, "/v1/models").status());  // a server that is not there is told at once
  }
  raise_descriptor_limit();
  LoadGenerator generator(target, config->load);
  return generator.run();
}

}  // namespace

std::string bench_serve_help() {
  BenchServeConfig config;
  return "usage: skein bench serve --url URL [flags]\n" + options(&config).help();
}

int bench_serve(const Arguments& arguments) {
  BenchServeConfig config;
  const OptionTable table = options(&config);
  std::vector<std::string> positional;
  const Status parsed = table.parse(arguments, &positional);
  if (!parsed.ok()) return report(parsed);
  if (!positional.empty() || config.url.empty()) {
    return report(invalid_argument("usage: skein bench serve --url URL [flags]; see skein bench serve --help"));
  }
  const Status complete = finish_config(&config);
  if (!complete.ok()) return report(complete);
  const Result<LoadResult> result = measure(&config);
  if (!result.ok()) return report(result.status());
  if (config.json) {
    std::printf("%s\n", load_json(config.url, config.load, *result).dump().c_str());
  } else {
    std::printf("%s", load_text(config.url, config.load, *result).c_str());
  }
  if (result->interrupted) {
    return report(unavailable("interrupted: the figures are of the " + std::to_string(result->completed) +
                              " requests that had completed"));
  }
  if (result->completed > 0) return 0;
  return report(unavailable("no request completed: " + result->errors.begin()->second.example));
}

}  // namespace skein
