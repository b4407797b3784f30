// `skein bench offline MODEL`: prefill and decode speed through the whole engine, without HTTP.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <random>

#include "coordinator/cli/bench.h"
#include "coordinator/cli/bench_report.h"
#include "coordinator/cli/bench_statistics.h"
#include "coordinator/cli/serve_plan.h"
#include "coordinator/control/cluster.h"
#include "coordinator/http/loop.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kStatusMs = 600;  // within which a replica that has come to rest has said how it did

struct BenchConfig {
  ServeConfig serve;
  int input_len = 512;
  int output_len = 128;
  int num_prompts = 1;   // at once
  int rounds = 5;
  bool warm_up = true;   // by a round before
  bool json = false;
};

// What one round took: all prompts start together. With many of them the first answers begin while the last prompts are
// still being read, and end before the last: hence a window in which all decode.
struct Round {
  double prefill_s = 0;      // until the last prompt's first token
  double steady_s = 0;       // from there to the first answer's end; 0: it ended before
  double decode_s = 0;       // from the last prompt's first token to the last answer's end
  int64_t steady_tokens = 0;
  int64_t decode_tokens = 0;
  int64_t tokens = 0;

  double total_s() const { return prefill_s + decode_s; }
};

double rate(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class OfflineBench {
 public:
  OfflineBench(const BenchConfig& config, const ServePlan& plan) : config_(config), plan_(plan) {}

  Status run() {
    ClusterConfig cluster_config;
    for (const PlannedReplica& replica : plan_.replicas) cluster_config.core.replicas.push_back(replica.spec);
    cluster_config.core.waiting_max = config_.num_prompts + 1;
    cluster_config.core.launch_timeout_ms = static_cast<int64_t>(plan_.config.startup_timeout * 1000);
    Result<std::unique_ptr<ReplicaEngine>> cluster = ReplicaEngine::start(
        loop_, std::move(cluster_config),
        {.ready = [this](const ReplicaReady& ready) { on_ready(ready); },
         .lost = [this](const ReplicaLost& lost) { fail(unavailable("a replica was lost: " + lost.reason)); },
         .failed = [this](const std::string& reason) { fail(unavailable(reason)); }});
    if (!cluster.ok()) return cluster.status();
    cluster_ = std::move(*cluster);
    loop_.run();
    return status_;
  }

  void print() const {
    if (config_.json) {
      std::printf("%s\n", json().dump().c_str());
      return;
    }
    std::printf("%d x (%d in, %d out), median of %d rounds: prefill %.1f tokens/s, ", config_.num_prompts, config_.input_len,
                config_.output_len, config_.rounds, *median_of(&OfflineBench::prefill_rate));
    if (const auto decode = median_of(&OfflineBench::steady_rate)) std::printf("decode %.1f tokens/s, ", *decode);
    std::printf("output over the whole round %.1f tokens/s\n", *median_of(&OfflineBench::output_rate));
  }

 private:
  size_t first_measured() const { return config_.warm_up ? 1 : 0; }

  // Of a replica since it was launched, as last heard.
  double starved_s() const {
    double seconds = 0;
    for (const Core::Replica& replica : cluster_->core().replicas()) seconds += replica.status.starved_seconds;
    return seconds / static_cast<double>(cluster_->core().replicas().size());
  }

  void on_ready(const ReplicaReady& ready) {
    load_seconds_ = std::max(load_seconds_, ready.registration.load_seconds);
    if (ready.replica == 0) kv_tokens_ = static_cast<int64_t>(ready.registration.kv_tokens);
    if (cluster_->core().all_were_ready()) start_round();
  }

  // Of a round; none: it had nothing of the kind.
  using Figure = std::optional<double>;

  Figure prefill_rate(const Round& round) const {
    return rate(int64_t{config_.num_prompts} * config_.input_len, round.prefill_s);
  }
  Figure decode_rate(const Round& round) const {
    return round.decode_tokens > 0 ? Figure(rate(round.decode_tokens, round.decode_s)) : std::nullopt;
  }
  // With all prompts decoding; where there is no such time, of all the decoding.
  Figure steady_rate(const Round& round) const {
    return round.steady_tokens > 0 ? Figure(rate(round.steady_tokens, round.steady_s)) : decode_rate(round);
  }
  Figure output_rate(const Round& round) const { return rate(round.tokens, round.total_s()); }

  Figure median_of(Figure (OfflineBench::*figure)(const Round&) const) const {
    std::vector<double> values;
    for (size_t i = first_measured(); i < rounds_.size(); ++i) {
      if (const Figure value = (this->*figure)(rounds_[i])) values.push_back(*value);
    }
    return values.empty() ? std::nullopt : Figure(median(std::move(values)));
  }

  // Where it runs, and all that its speed depends on.
  void add_settings(Json* out) const {
    const ServeConfig& config = plan_.config;
    const ReplicaSpec& spec = plan_.replicas[0].spec;
    const bool gpu = config.device == "cuda";
    out->set("model", default_model_name(config));
    out->set("format", info(plan_.model.checkpoint->main_format()).name);
    out->set("build", SKEIN_BUILD);
    out->set("processor", plan_.machine.processor);
    out->set("cores", plan_.machine.cores);
    out->set("device", config.device);
    out->set("gpus", gpu ? gpus_of_ranks() : Json::array());
    out->set("replicas", static_cast<int64_t>(plan_.replicas.size()));
    out->set("tensor_parallel_size", spec.tensor_parallel_size);
    out->set("pipeline_parallel_size", spec.pipeline_parallel_size);
    out->set("threads_per_rank", spec.threads);
    out->set("dtype", gpu ? "bfloat16" : config.dtype);
    out->set("kv_cache_dtype",
             kv_cache_dtype({.gpu = gpu, .dtype = config.dtype, .kv_cache_dtype = config.kv_cache_dtype}));
    out->set("deterministic", config.deterministic || !gpu);
    out->set("prefix_caching", !config.no_prefix_caching);
    out->set("kv_cache_tokens", kv_tokens_);
    out->set("block_size", spec.block_tokens);
    out->set("max_num_seqs", spec.slots);
    out->set("max_num_batched_tokens", spec.step_tokens_max);
    out->set("max_model_len", plan_.context_max);
    out->set("input_len", config_.input_len);
    out->set("output_len", config_.output_len);
    out->set("num_prompts", config_.num_prompts);
    out->set("rounds", config_.rounds);
  }

  // A name for each rank of each replica.
  Json gpus_of_ranks() const {
    Json names = Json::array();
    for (const PlannedReplica& replica : plan_.replicas) {
      const ReplicaSpec& spec = replica.spec;
      for (int rank = 0; rank < spec.ranks(); ++rank) {
        const int gpu = spec.places.empty() ? spec.first_device + rank : spec.places[static_cast<size_t>(rank)].device;
        names.push_back(plan_.machine.gpus[static_cast<size_t>(gpu)].name);
      }
    }
    return names;
  }

  Json json() const {
    Json out = Json::object();
    add_settings(&out);
    out.set("prefill_tokens_per_second", optional_json(median_of(&OfflineBench::prefill_rate)));
    out.set("decode_tokens_per_second", optional_json(median_of(&OfflineBench::decode_rate)));
    out.set("steady_decode_tokens_per_second", optional_json(median_of(&OfflineBench::steady_rate)));
    out.set("output_tokens_per_second", optional_json(median_of(&OfflineBench::output_rate)));
    out.set("load_seconds", load_seconds_);
    int64_t tokens = 0;
    double seconds = 0;
    Json rounds = Json::array();
    for (size_t i = first_measured(); i < rounds_.size(); ++i) {
      rounds.push_back(round_json(rounds_[i]));
      tokens += rounds_[i].tokens;
      seconds += rounds_[i].total_s();
    }
    Json run = Json::object();
    run.set("output_tokens", tokens);
    run.set("seconds", seconds);
    run.set("output_tokens_per_second", rate(tokens, seconds));
    run.set("device_starved_share", seconds > 0 ? starved_in_rounds_s_ / seconds : 0);
    out.set("run", std::move(run));
    out.set("round_figures", std::move(rounds));
    return out;
  }

  Json round_json(const Round& round) const {
    Json out = Json::object();
    out.set("prefill_seconds", round.prefill_s);
    out.set("steady_decode_seconds", round.steady_s);
    out.set("decode_seconds", round.decode_s);
    out.set("total_seconds", round.total_s());
    out.set("output_tokens", round.tokens);
    out.set("prefill_tokens_per_second", optional_json(prefill_rate(round)));
    out.set("decode_tokens_per_second", optional_json(decode_rate(round)));
    out.set("steady_decode_tokens_per_second", optional_json(steady_rate(round)));
    out.set("output_tokens_per_second", optional_json(output_rate(round)));
    return out;
  }

  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
    finish();
  }

  void finish() {
    loop_.post([this] { cluster_->stop([this] { loop_.stop(); }); });
  }

  void start_round() {
    if (rounds_.size() == first_measured()) starved_before_s_ = starved_s();
    round_start_ = Clock::now();
    first_tokens_ = 0;
    finished_ = 0;
    rounds_.emplace_back();
    std::uniform_int_distribution<int32_t> any_token(0, plan_.model.checkpoint->description().vocabulary - 1);
    for (int i = 0; i < config_.num_prompts; ++i) {
      GenerationRequest request;
      request.tokens.resize(static_cast<size_t>(config_.input_len));
      for (int32_t& token : request.tokens) token = any_token(random_);
      request.prompt_tokens = config_.input_len;
      request.sampling.temperature = 0;
      request.sampling.max_tokens = config_.output_len;
      const Result<uint64_t> id =
          cluster_->submit(std::move(request), [this](const TokenFrame& frame) { on_frame(frame); });
      if (!id.ok()) return fail(id.status());
    }
  }

  void on_frame(const TokenFrame& frame) {
    if (frame.finish == FinishReason::kError) return fail(unavailable(frame.error));
    Round& round = rounds_.back();
    const auto tokens = static_cast<int64_t>(frame.tokens.size());
    round.tokens += tokens;
    if (first_tokens_ == config_.num_prompts) {
      round.decode_tokens += tokens;
      if (finished_ == 0) round.steady_tokens += tokens;
    } else if (frame.first_index == 0 && tokens > 0 && ++first_tokens_ == config_.num_prompts) {
      round.prefill_s = seconds_since(round_start_);
    }
    if (frame.finish == FinishReason::kNone) return;
    if (finished_++ == 0 && first_tokens_ == config_.num_prompts) {
      round.steady_s = seconds_since(round_start_) - round.prefill_s;
    }
    if (finished_ < config_.num_prompts) return;
    round.decode_s = seconds_since(round_start_) - round.prefill_s;
    if (rounds_.size() == first_measured()) {
      loop_.call_after(kStatusMs, [this] { start_round(); });
    } else if (rounds_.size() < first_measured() + static_cast<size_t>(config_.rounds)) {
      loop_.post([this] { start_round(); });
    } else {
      loop_.call_after(kStatusMs, [this] {
        starved_in_rounds_s_ = starved_s() - starved_before_s_;
        finish();
      });
    }
  }

  const BenchConfig& config_;
  const ServePlan& plan_;
  Loop loop_;
  std::unique_ptr<ReplicaEngine> cluster_;
  Status status_;
  std::mt19937 random_{7};
  std::vector<Round> rounds_;
  Clock::time_point round_start_;
  int first_tokens_ = 0;
  int finished_ = 0;
  double starved_before_s_ = 0;
  double starved_in_rounds_s_ = 0;
  double load_seconds_ = 0;
  int64_t kv_tokens_ = 0;  // of the first replica
};

OptionTable options(BenchConfig* config) {
  OptionTable table;
  add_local_options(&table, &config->serve);
  table.add_integer("input-len", "prompt tokens", 1, 1 << 20, &config->input_len);
  table.add_integer("output-len", "generated tokens", 1, 1 << 20, &config->output_len);
  table.add_integer("num-prompts", "prompts at once", 1, 4096, &config->num_prompts);
  table.add_integer("rounds", "measured rounds", 1, 1000, &config->rounds);
  table.add_switch("warm-up", "one more round before these (default); --warm-up=false measures from the first on",
                   &config->warm_up);
  table.add_switch("json", "print one JSON object, with every round's figures", &config->json);
  return table;
}

Result<ServePlan> plan_bench(const BenchConfig& config) {
  ServeConfig serve = config.serve;
  serve.max_waiting_requests = config.num_prompts;  // all come at once
  // Of this command they are no request that is planned for.
  for (const char* flag : {"input-len", "output-len"}) serve.flags.erase(flag);
  ASSIGN_OR_RETURN(ServePlan plan, make_serve_plan(serve));
  if (config.input_len + config.output_len > plan.context_max) {
    return invalid_argument("input-len + output-len is more than the context of " + std::to_string(plan.context_max) +
                            " tokens; lower them");
  }
  return plan;
}

}  // namespace

std::string bench_offline_help() {
  BenchConfig config;
  return "usage: skein bench offline MODEL [flags]\n"
         "Prompts are random tokens, all sent at once; the prefix cache is off but for --no-prefix-caching=false.\n" +
         options(&config).help();
}

int bench_offline(const Arguments& arguments) {
  BenchConfig config;
  config.serve.no_prefix_caching = true;
  const OptionTable table = options(&config);
  const Status parsed = parse_local_config(arguments, table, &config.serve);
  if (!parsed.ok()) return report(parsed);
  if (config.serve.model.empty()) {
    return report(invalid_argument("usage: skein bench offline MODEL [flags]; see skein bench offline --help"));
  }
  const Result<ServePlan> plan = plan_bench(config);
  if (!plan.ok()) return report(plan.status());
  if (config.json) log_notes(*plan);
  else std::printf("%s", describe(*plan).c_str());
  OfflineBench bench(config, *plan);
  const Status status = bench.run();
  if (!status.ok()) return report(status);
  bench.print();
  return 0;
}

}  // namespace skein
