// `skein bench offline MODEL`: prefill and decode speed through the whole engine, without HTTP.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "coordinator/cli/commands.h"
#include "coordinator/cli/serve_plan.h"
#include "coordinator/control/cluster.h"
#include "coordinator/http/loop.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchConfig {
  ServeConfig serve;
  int input_len = 512;
  int output_len = 128;
  int num_prompts = 1;   // at once
  int rounds = 5;        // the first is a warm-up
  bool json = false;
};

// What one round took: all prompts start together.
struct Round {
  double prefill_seconds = 0;  // until the last prompt's first token
  double decode_seconds = 0;   // from there to the last token
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

class OfflineBench {
 public:
  OfflineBench(const BenchConfig& config, const ServePlan& plan) : config_(config), plan_(plan) {}

  Status run() {
    ClusterConfig cluster_config;
    for (const PlannedReplica& replica : plan_.replicas) cluster_config.core.replicas.push_back(replica.spec);
    cluster_config.core.waiting_max = config_.num_prompts + 1;
    Result<std::unique_ptr<Cluster>> cluster = Cluster::start(
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
    std::vector<double> prefill, decode;
    for (size_t i = 1; i < rounds_.size(); ++i) {
      prefill.push_back(config_.num_prompts * config_.input_len / rounds_[i].prefill_seconds);
      decode.push_back(config_.num_prompts * (config_.output_len - 1) / rounds_[i].decode_seconds);
    }
    const double prefill_speed = median(prefill);
    const double decode_speed = config_.output_len > 1 ? median(decode) : 0;
    if (config_.json) {
      Json out = Json::object();
      out.set("model", default_model_name(plan_.config));
      out.set("format", info(plan_.model.checkpoint->main_format()).name);
      out.set("processor", plan_.machine.processor);
      out.set("cores", plan_.machine.cores);
      out.set("tensor_parallel_size", plan_.replicas[0].spec.tensor_parallel_size);
      out.set("pipeline_parallel_size", plan_.replicas[0].spec.pipeline_parallel_size);
      out.set("threads_per_rank", plan_.replicas[0].spec.threads);
      out.set("input_len", config_.input_len);
      out.set("output_len", config_.output_len);
      out.set("num_prompts", config_.num_prompts);
      out.set("rounds", config_.rounds);
      out.set("prefill_tokens_per_second", prefill_speed);
      out.set("decode_tokens_per_second", decode_speed);
      out.set("load_seconds", load_seconds_);
      std::printf("%s\n", out.dump().c_str());
    } else {
      std::printf("%d x (%d in, %d out), median of %d rounds: prefill %.1f tokens/s, decode %.1f tokens/s\n",
                  config_.num_prompts, config_.input_len, config_.output_len, config_.rounds, prefill_speed,
                  decode_speed);
    }
  }

 private:
  void on_ready(const ReplicaReady& ready) {
    load_seconds_ = std::max(load_seconds_, ready.registration.load_seconds);
    if (cluster_->core().all_were_ready()) start_round();
  }

  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
    finish();
  }

  void finish() {
    loop_.post([this] { cluster_->stop([this] { loop_.stop(); }); });
  }

  void start_round() {
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
    if (frame.first_index == 0 && !frame.tokens.empty() && ++first_tokens_ == config_.num_prompts) {
      round.prefill_seconds = seconds_since(round_start_);
    }
    if (frame.finish == FinishReason::kNone || ++finished_ < config_.num_prompts) return;
    round.decode_seconds = seconds_since(round_start_) - round.prefill_seconds;
    if (static_cast<int>(rounds_.size()) <= config_.rounds) {
      loop_.post([this] { start_round(); });
    } else {
      finish();
    }
  }

  const BenchConfig& config_;
  const ServePlan& plan_;
  Loop loop_;
  std::unique_ptr<Cluster> cluster_;
  Status status_;
  std::mt19937 random_{7};
  std::vector<Round> rounds_;
  Clock::time_point round_start_;
  int first_tokens_ = 0;
  int finished_ = 0;
  double load_seconds_ = 0;
};

Result<ServePlan> plan_bench(const BenchConfig& config) {
  ASSIGN_OR_RETURN(ServePlan plan, make_serve_plan(config.serve));
  if (config.input_len + config.output_len > plan.context_max) {
    return invalid_argument("input-len + output-len is more than the context of " + std::to_string(plan.context_max) +
                            " tokens; lower them");
  }
  return plan;
}

}  // namespace

int bench_command(const Arguments& arguments) {
  BenchConfig config;
  config.serve.no_prefix_caching = true;
  OptionTable table;
  add_serve_options(&table, &config.serve);
  table.add_integer("input-len", "prompt tokens", 1, 1 << 20, &config.input_len);
  table.add_integer("output-len", "generated tokens", 1, 1 << 20, &config.output_len);
  table.add_integer("num-prompts", "prompts at once", 1, 4096, &config.num_prompts);
  table.add_integer("rounds", "measured rounds, after one to warm up", 1, 1000, &config.rounds);
  table.add_switch("json", "print one JSON object", &config.json);
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein bench offline MODEL [flags]\n%s", table.help().c_str());
    return 0;
  }
  std::vector<std::string> positional;
  const Status parsed = table.parse(arguments, &positional);
  if (!parsed.ok()) return report(parsed);
  if (positional.size() == 2) config.serve.model = positional[1];
  if (positional.empty() || positional[0] != "offline" || positional.size() > 2 || config.serve.model.empty()) {
    return report(invalid_argument("usage: skein bench offline MODEL [flags]; see skein bench --help"));
  }
  const Result<ServePlan> plan = plan_bench(config);
  if (!plan.ok()) return report(plan.status());
  if (!config.json) std::printf("%s", describe(*plan).c_str());
  OfflineBench bench(config, *plan);
  const Status status = bench.run();
  if (!status.ok()) return report(status);
  bench.print();
  return 0;
}

}  // namespace skein
