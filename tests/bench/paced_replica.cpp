// A replica without a device, in the place of skein-worker: leader, batcher and messages are the real ones, but a step
// takes SKEIN_BENCH_STEP_US microseconds (0: none) and samples arbitrary tokens. What is measured around it is what
// everything but the device costs. At the end, when SKEIN_BENCH_REPORT names a file, writes how long steps took.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/json.h"
#include "comm/communicator.h"
#include "model/checkpoint.h"
#include "model/mapped_file.h"
#include "worker/leader.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSpecBytesMax = 1 << 20;
constexpr size_t kReportedSteps = 1000;

int64_t number_of(const char* variable) {
  const char* text = std::getenv(variable);
  int64_t value = 0;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), value);
  return value;
}

// A token of the step's own choice for each sample.
StepResult answer(const StepPlan& plan, int vocabulary) {
  StepResult result{.step = plan.step, .samples = {}};
  result.samples.resize(plan.samples.size());
  for (size_t i = 0; i < result.samples.size(); ++i) {
    const uint64_t mixed = (plan.step * 1'000'003 + static_cast<uint64_t>(plan.samples[i].slot)) * 0x9E3779B97F4A7C15u;
    result.samples[i].token = static_cast<int32_t>((mixed >> 33) % static_cast<uint64_t>(vocabulary));
  }
  return result;
}

double median_us(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

// Times between the ends of full steps of single tokens.
class StepTimes {
 public:
  void ended(const StepPlan& plan, int slots) {
    const Clock::time_point now = Clock::now();
    const bool full = plan.tokens() == slots && static_cast<int>(plan.rows.size()) == slots;
    if (full && last_full_) us_.push_back(std::chrono::duration<double, std::micro>(now - last_).count());
    last_full_ = full;
    last_ = now;
  }

  void report(const char* path) const {
    if (path == nullptr || us_.size() < 2 * kReportedSteps) return;
    std::FILE* file = std::fopen(path, "w");
    if (file == nullptr) return;
    const auto part = static_cast<ptrdiff_t>(kReportedSteps);
    std::fprintf(file, "%zu full steps of single tokens: the first %zu took %.1f us, the last %.1f us (medians)\n",
                 us_.size(), kReportedSteps, median_us({us_.begin(), us_.begin() + part}),
                 median_us({us_.end() - part, us_.end()}));
    std::fclose(file);
  }

 private:
  std::vector<double> us_;
  Clock::time_point last_;
  bool last_full_ = false;
};

void serve(Communicator& communicator, const ReplicaSpec& spec, int vocabulary) {
  const auto step_time = std::chrono::microseconds(number_of("SKEIN_BENCH_STEP_US"));
  StepTimes times;
  Clock::time_point free_at;
  bool waited = true;  // for the plan: the device had nothing to do
  std::string bytes;
  const auto send = [&](const StepResult& result) {
    bytes.clear();
    encode(result, &bytes);
    communicator.send_result(bytes);
  };
  while (true) {
    const Result<StepPlan> plan = decode_step_plan(communicator.receive_plan());
    CHECK(plan.ok());
    if (plan->stop) break;
    // Like a device: a plan that was there at the last step's end begins then, however late this thread woke up.
    free_at = (waited ? Clock::now() : free_at) + step_time;
    if (step_time.count() > 0) std::this_thread::sleep_until(free_at);  // allowed: a device takes its time
    times.ended(*plan, spec.slots);
    waited = !communicator.plan_waits();
    send(answer(*plan, vocabulary));
  }
  send({.step = kFarewellStep, .samples = {}});
  times.report(std::getenv("SKEIN_BENCH_REPORT"));
}

Status run(const char* spec_path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(spec_path, kSpecBytesMax));
  ASSIGN_OR_RETURN(const Json json, parse_json(text));
  ASSIGN_OR_RETURN(const ReplicaSpec spec, parse_replica_spec(json));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::open(spec.model, LoadFormat::kDummy));
  const ModelDescription& model = checkpoint->description();
  ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator,
                   Communicator::create({.spin = spec.spin},
                                        {.broadcast = [](std::string bytes) { return bytes; }, .barrier = [] {}}));
  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket,
                   MessageSocket::connect(spec.coordinator, "replica-" + std::to_string(spec.launch)));
  ASSIGN_OR_RETURN(std::unique_ptr<Batcher> batcher, make_batcher(spec, spec.kv_blocks, model, 1));
  Leader leader(spec, std::move(socket), std::move(batcher), *communicator);
  leader.start({.replica = spec.replica,
                .launch = spec.launch,
                .build = SKEIN_BUILD,
                .numerics_id = 1,
                .ranks = 1,
                .slots = static_cast<uint32_t>(spec.slots),
                .kv_tokens = static_cast<uint64_t>(spec.kv_blocks) * static_cast<uint64_t>(spec.block_tokens),
                .context_max = static_cast<uint32_t>(spec.context_max),
                .load_seconds = 0});
  serve(*communicator, spec, model.vocabulary);
  leader.join();
  return {};
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  const skein::Status status = argc == 2 ? skein::run(argv[1]) : skein::invalid_argument("usage: skein-worker SPEC.json");
  if (status.ok()) return 0;
  std::fprintf(stderr, "skein-worker: %s\n", status.message().c_str());
  return 1;
}
