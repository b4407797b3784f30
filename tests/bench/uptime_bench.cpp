// Whether steps get slower with the time that a replica runs: uptime_bench FOLDER STEPS [BATCH]
// FOLDER has a config.json; weights are random. A batcher and an executor, on a GPU where the build has CUDA, run STEPS
// steps while requests of many lengths end, arrive and are cancelled. Prints the median time of a step in which BATCH
// sequences (64) each get one token, for the first and the last thousand of these (or halves, where there are fewer)
// and for the slowest thousand between, and the process's memory.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <span>
#include <string>

#include "worker/executor.h"
#include "worker/leader.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPart = 1000;
constexpr int kContext = 1024;
constexpr int kCancelOneIn = 20;

int number_of(const char* text) {
  int value = 0;
  std::from_chars(text, text + std::strlen(text), value);
  return value;
}

const Ops& ops() {
#ifdef SKEIN_CUDA
  return cuda_ops();
#else
  return cpu_ops();
#endif
}

double resident_mib() {
  long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return static_cast<double>(pages) * 4096 / (1 << 20);
}

double median(std::span<const double> values) {
  std::vector<double> copy(values.begin(), values.end());
  std::ranges::nth_element(copy, copy.begin() + static_cast<ptrdiff_t>(copy.size() / 2));
  return copy[copy.size() / 2];
}

ReplicaSpec spec_of(const std::string& model, int batch) {
  ReplicaSpec spec;
  spec.model = model;
  spec.load_format = "dummy";
  spec.slots = batch;
  spec.step_tokens_max = 2048;
  spec.context_max = kContext;
  spec.block_tokens = ops().records ? 64 : 16;
  spec.kv_blocks = batch * kContext / spec.block_tokens;
  spec.cache_key = std::string(32, '0');
  return spec;
}

class Uptime {
 public:
  Uptime(Executor& executor, Batcher& batcher, int batch, int vocabulary)
      : executor_(executor), batcher_(batcher), batch_(batch), token_(0, vocabulary - 1) {}

  void run(int steps) {
    // Lengths are mixed from the start: the first thousand steps are then no different from later ones.
    while (done_ < steps) {
      while (batcher_.stats().running + batcher_.stats().waiting < batch_ + 4) submit();
      while (std::optional<StepPlan> plan = batcher_.plan()) {
        full_.push_back(plan->tokens() == batch_ && static_cast<int>(plan->rows.size()) == batch_);
        CHECK(executor_.launch(*plan).ok());
      }
      const Result<std::optional<StepResult>> result = executor_.finish();
      CHECK(result.ok());
      if (!result->has_value()) continue;
      ended();
      CHECK(batcher_.complete(**result).ok());
      for (const TokenFrame& frame : batcher_.take_frames()) CHECK(frame.finish != FinishReason::kError);
      if (random_() % kCancelOneIn == 0) batcher_.cancel(next_id_ - 1 - random_() % static_cast<unsigned>(batch_), 1);
    }
  }

  void print(int steps) const {
    std::printf("%d steps, %zu of them of %d single tokens; resident memory %.1f MiB, at the end %.1f MiB\n", steps,
                us_.size(), batch_, resident_at_start_, resident_mib());
    if (us_.size() < 2) return;
    const size_t part = std::min(kPart, us_.size() / 2);
    double slowest = 0;
    for (size_t begin = 0; begin + part <= us_.size(); begin += part) {
      slowest = std::max(slowest, median(std::span(us_).subspan(begin, part)));
    }
    const double first = median(std::span(us_).first(part));
    const double last = median(std::span(us_).last(part));
    std::printf("median of the first %zu: %.1f us, of the last: %.1f us (%+.1f %%), of the slowest: %.1f us\n", part,
                first, last, 100 * (last / first - 1), slowest);
  }

 private:
  void submit() {
    GenerationRequest request;
    request.id = next_id_++;
    request.epoch = 1;
    request.tokens.resize(16 + random_() % (kContext / 2 - 16));
    for (int32_t& token : request.tokens) token = token_(random_);
    request.prompt_tokens = static_cast<int32_t>(request.tokens.size());
    request.sampling.temperature = 0;
    request.sampling.max_tokens = static_cast<int32_t>(1 + random_() % (kContext / 2));
    CHECK(batcher_.submit(std::move(request)).ok());
  }

  void ended() {
    const Clock::time_point now = Clock::now();
    const bool full = full_[static_cast<size_t>(done_)];
    if (full && last_full_) us_.push_back(std::chrono::duration<double, std::micro>(now - last_).count());
    if (++done_ == static_cast<int>(kPart)) resident_at_start_ = resident_mib();
    last_full_ = full;
    last_ = now;
  }

  Executor& executor_;
  Batcher& batcher_;
  const int batch_;
  std::mt19937 random_{11};
  std::uniform_int_distribution<int32_t> token_;
  uint64_t next_id_ = 1000;
  std::vector<bool> full_;  // by step
  int done_ = 0;
  bool last_full_ = false;
  Clock::time_point last_;
  std::vector<double> us_;
  double resident_at_start_ = 0;  // after the first thousand steps
};

Status run(const std::string& folder, int steps, int batch) {
  const ReplicaSpec spec = spec_of(folder, batch);
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::open(folder, LoadFormat::kDummy));
  ASSIGN_OR_RETURN(const std::vector<ShardPlan> shards, plan_shards(checkpoint->description(), 1, 1));
  ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator,
                   Communicator::create({}, {.broadcast = [](std::string bytes) { return bytes; }, .barrier = [] {}}));
  SharedMemoryCollectives collectives({}, *communicator);
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, ops().open({.index = 0, .threads = 1}));
  ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor,
                   Executor::create(spec, *checkpoint, shards[0], ops(), *device,
                                    {.communicator = *communicator, .collectives = collectives,
                                     .minimum = [](int64_t value) { return value; }}));
  const ModelDescription& model = checkpoint->description();
  RETURN_IF_ERROR(executor->run(warm_up_plan(spec, static_cast<int>(model.kv_groups.size()))).status());
  RETURN_IF_ERROR(executor->record_decode_steps());
  ASSIGN_OR_RETURN(const std::unique_ptr<Batcher> batcher, make_batcher(spec, spec.kv_blocks, model, 1));
  Uptime uptime(*executor, *batcher, batch, model.vocabulary);
  uptime.run(steps);
  uptime.print(steps);
  return {};
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: uptime_bench FOLDER STEPS [BATCH]\n");
    return 2;
  }
  const int batch = argc > 3 ? skein::number_of(argv[3]) : 64;
  const skein::Status status = skein::run(argv[1], skein::number_of(argv[2]), batch);
  if (status.ok()) return 0;
  std::fprintf(stderr, "uptime_bench: %s\n", status.message().c_str());
  return 1;
}
