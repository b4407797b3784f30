#include "worker/leader.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>
#include <variant>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/lease_watch.h"
#include "base/log.h"
#include "kvcache/kv_cache.h"
#include "worker/outbox.h"
#include "worker/work_counter.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kStatusPeriod = std::chrono::milliseconds(250);
constexpr int kFramesPerTurn = 256;

struct CancelAll {};  // nobody waits any more for what was asked for
using Event = std::variant<GenerationRequest, CancelRequest, CancelAll, StepResult, Stop>;

// Ends the process at once; mpirun then ends the other ranks. For states from which nothing here can be saved.
[[noreturn]] void abandon(const std::string& reason) {
  std::fprintf(stderr, "skein-worker: %s\n", reason.c_str());
  std::fflush(stderr);
  _exit(1);
}

Result<SipKey> parse_cache_key(std::string_view hex) {
  SipKey key{};
  bool good = hex.size() == 2 * key.size();
  for (size_t i = 0; good && i < key.size(); ++i) {
    const char* begin = hex.data() + 2 * i;
    const auto [end, error] = std::from_chars(begin, begin + 2, key[i], 16);
    good = error == std::errc() && end == begin + 2;
  }
  if (!good) return invalid_argument("the replica spec's cache_key must be 32 hexadecimal digits");
  return key;
}

// A final frame for each choice.
std::vector<TokenFrame> refuse(const GenerationRequest& request) {
  std::vector<TokenFrame> frames(static_cast<size_t>(std::max(request.choices, 1)));
  for (size_t choice = 0; choice < frames.size(); ++choice) {
    frames[choice].request = request.id;
    frames[choice].epoch = request.epoch;
    frames[choice].choice = static_cast<int32_t>(choice);
    frames[choice].first_index = static_cast<int32_t>(request.tokens.size()) - request.prompt_tokens;
    frames[choice].finish = FinishReason::kError;
    frames[choice].error = "the replica's queue is full; try again later";
  }
  return frames;
}

}  // namespace

struct Leader::State {
  const ReplicaSpec spec;
  std::unique_ptr<MessageSocket> socket;  // control thread
  std::unique_ptr<Batcher> batcher;       // batcher thread
  Communicator& communicator;
  RegisterReplica registration;
  uint64_t coordinator = 0;  // control thread: the instance that asked last who this is; 0: none had to

  BoundedQueue<Event> events;
  Outbox outbox;
  std::optional<Frame> unsent;  // control thread: for which the socket had no room
  const int wake_fd;
  std::mutex stats_mutex;
  BatcherStats stats;    // guarded by stats_mutex
  WorkCounter work;      // guarded by stats_mutex
  int64_t starved_ns = 0;  // guarded by stats_mutex
  bool rested = true;        // batcher thread: there was nothing to do before the next plan
  uint64_t rested_step = 0;  // batcher thread: the last plan of which that was true
  LeaseWatch lease;      // control thread: of the coordinator
  LeaseWatch progress;   // control thread: of the steps in flight
  uint64_t steps_seen = 0;  // control thread: that had ended when it looked last
  std::thread control, batching, results;

  State(const ReplicaSpec& spec, std::unique_ptr<MessageSocket> socket, std::unique_ptr<Batcher> batcher,
        Communicator& communicator)
      : spec(spec),
        socket(std::move(socket)),
        batcher(std::move(batcher)),
        communicator(communicator),
        events(static_cast<size_t>(2 * spec.waiting_max + 4 * spec.slots + 1024)),
        wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    CHECK_GE(wake_fd, 0);
  }
  ~State() { close(wake_fd); }

  void wake_control() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_fd, &one, sizeof one);  // full means already awake
  }

  // Batcher thread.
  void run_batcher() {
    bool stopping = false;
    while (!stopping) {
      send_plans();
      publish();
      std::optional<Event> event = events.pop();
      while (event) {
        stopping |= handle(std::move(*event));
        event = events.try_pop();
      }
      publish();
    }
    StepPlan farewell;
    farewell.stop = true;
    std::string bytes;
    encode(farewell, &bytes);
    communicator.send_plan(bytes);
  }

  void send_plans() {
    std::string bytes;
    while (const std::optional<StepPlan> plan = batcher->plan()) {
      if (std::exchange(rested, false)) rested_step = plan->step;
      {
        std::lock_guard lock(stats_mutex);
        work.planned(*plan, Clock::now());
      }
      bytes.clear();
      encode(*plan, &bytes);
      communicator.send_plan(bytes);
    }
  }

  bool handle(Event event) {
    if (auto* request = std::get_if<GenerationRequest>(&event)) {
      std::vector<TokenFrame> refusals = refuse(*request);
      rested |= batcher->idle();
      if (const Status status = batcher->submit(std::move(*request)); !status.ok()) {
        for (TokenFrame& refusal : refusals) {
          refusal.error = status.message();
          outbox.push(std::move(refusal));
        }
      }
    } else if (const auto* cancel = std::get_if<CancelRequest>(&event)) {
      batcher->cancel(cancel->request, cancel->epoch);
    } else if (std::holds_alternative<CancelAll>(event)) {
      batcher->cancel_all();
    } else if (const auto* result = std::get_if<StepResult>(&event)) {
      // Only a rank that has lost its mind answers for a step that was not asked for.
      if (const Status status = batcher->complete(*result); !status.ok()) abandon(status.message());
      std::lock_guard lock(stats_mutex);
      work.ended(Clock::now());
      if (result->step != rested_step) starved_ns += result->waited_ns;
    } else {
      return true;
    }
    return false;
  }

  void publish() {
    std::vector<TokenFrame> frames = batcher->take_frames();
    for (TokenFrame& frame : frames) outbox.push(std::move(frame));
    {
      std::lock_guard lock(stats_mutex);
      stats = batcher->stats();
    }
    if (!frames.empty()) wake_control();
  }

  void run_results() {
    while (true) {
      Result<StepResult> result = decode_step_result(communicator.receive_result());
      CHECK(result.ok());  // written by this build's encode()
      if (result->step == kFarewellStep) return;
      CHECK(events.try_push(std::move(*result)));  // the queue has room for every step in flight
    }
  }

  // Control thread.
  void run_control() {
    if (const Status sent = socket->send("", registration); !sent.ok()) abandon(sent.message());
    Clock::time_point next_status = Clock::now();
    lease.heard(milliseconds(next_status));
    while (true) {
      if (!take_all()) return;
      const bool may_wait = send_outbox();
      const Clock::time_point now = Clock::now();
      if (static_cast<double>(lease.silent_ms(milliseconds(now))) > spec.lease_seconds * 1000) {
        abandon("the coordinator gave no sign of life for its lease: this replica ends");
      }
      if (stuck(milliseconds(now))) {
        abandon("a step has not ended within the step-timeout: a rank or its device is stuck; this replica ends");
      }
      if (now >= next_status) {
        tell_status();
        next_status = now + kStatusPeriod;
      }
      // Sending may have consumed the socket's edge: look once more before sleeping.
      if (!take_all()) return;
      if (may_wait) wait_until(next_status);
    }
  }

  bool stuck(int64_t now_ms) {
    std::lock_guard lock(stats_mutex);
    const uint64_t ended = work.decode().steps + work.prefill().steps;
    if (work.in_flight() == 0 || std::exchange(steps_seen, ended) != ended) progress.heard(now_ms);
    return static_cast<double>(progress.silent_ms(now_ms)) > spec.step_seconds * 1000;
  }

  // False if there is more to send: the socket gets its turn in between. A coordinator that falls behind is waited for;
  // what the ranks produce meanwhile is joined in the outbox.
  bool send_outbox() {
    for (int frames = 0; frames < kFramesPerTurn; ++frames) {
      if (!unsent) unsent = outbox.pop();
      if (!unsent) return true;
      const Status sent = socket->send("", *unsent);
      if (sent.code() == Code::kResourceExhausted) return true;  // the socket's descriptor tells when there is room
      if (!sent.ok()) abandon(sent.message());
      unsent.reset();
    }
    return false;
  }

  void wait_until(Clock::time_point deadline) {
    pollfd fds[2] = {{socket->fd(), POLLIN, 0}, {wake_fd, POLLIN, 0}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    poll(fds, 2, static_cast<int>(std::max<int64_t>(left, 0)));
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t drained = read(wake_fd, &count, sizeof count);
  }

  // False when the replica is to stop.
  bool take_all() {
    while (std::optional<MessageSocket::Received> received = socket->receive()) {
      lease.heard(now_ms());
      if (!take(std::move(*received))) return false;
    }
    return true;
  }

  bool take(MessageSocket::Received received) {
    if (!received.frame.ok()) {
      log_warning("frame dropped", {{"cause", received.frame.status().message()}});
      return true;
    }
    Frame& frame = *received.frame;
    if (auto* request = std::get_if<GenerationRequest>(&frame)) {
      std::vector<TokenFrame> refusals = refuse(*request);
      if (!events.try_push(std::move(*request))) {
        for (TokenFrame& refusal : refusals) outbox.push(std::move(refusal));
      }
    } else if (const auto* cancel = std::get_if<CancelRequest>(&frame)) {
      if (!events.try_push(*cancel)) abandon("the replica's queue is full of cancellations");
    } else if (const auto* introduce = std::get_if<Introduce>(&frame)) {
      meet(introduce->instance);
    } else if (std::holds_alternative<Stop>(frame)) {
      CHECK(events.try_push(Stop{}));
      return false;
    }
    return true;  // leases and frames for others need no answer
  }

  // A coordinator that does not know this replica, or has given up what it asked for before.
  void meet(uint64_t instance) {
    if (coordinator != instance && !events.try_push(CancelAll{})) abandon("the replica's queue is full");
    coordinator = instance;
    introduce();
  }

  // Where there is no room, or it is lost, the coordinator asks.
  void introduce() { (void)socket->send("", registration); }

  // Dropped where there is no room: so many frames are sign enough, and the next one says the same and more.
  void tell_status() { (void)socket->send("", status()); }

  ReplicaStatus status() {
    std::lock_guard lock(stats_mutex);
    return {.launch = spec.launch,
            .running = static_cast<uint32_t>(stats.running),
            .waiting = static_cast<uint32_t>(stats.waiting),
            .preemptions = static_cast<uint64_t>(stats.preemptions),
            .prefix_queries = static_cast<uint64_t>(stats.prefix_queries),
            .prefix_hits = static_cast<uint64_t>(stats.prefix_hits),
            .kv_usage = stats.kv_usage,
            .steps = work.decode().steps + work.prefill().steps,
            .starved_seconds = static_cast<double>(starved_ns) * 1e-9,
            .decode_work = work.decode(),
            .prefill_work = work.prefill()};
  }
};

Result<std::unique_ptr<Batcher>> make_batcher(const ReplicaSpec& spec, int kv_blocks, const ModelDescription& model,
                                              uint64_t numerics) {
  ASSIGN_OR_RETURN(const SipKey key, parse_cache_key(spec.cache_key));
  auto cache = std::make_unique<KvCache>(KvCacheConfig{
      .groups = std::vector<KvGroupConfig>(model.kv_groups.size(),
                                           {.blocks = kv_blocks, .block_tokens = spec.block_tokens}),
      .prefix_caching = spec.prefix_caching,
      .key = key,
      .model = std::to_string(numerics)});
  const int lanes = spec.pipeline_parallel_size;
  return std::make_unique<Batcher>(BatcherConfig{.slots = spec.slots,
                                                 .step_tokens_max = spec.step_tokens_max,
                                                 .step_tokens_enough = spec.device == "cuda" ? kGpuStepTokensEnough : 0,
                                                 .sequence_tokens_max = spec.context_max,
                                                 .vocabulary = model.vocabulary,
                                                 .lanes = lanes,
                                                 .lane_steps_max = lanes == 1 ? 2 : 1,
                                                 .waiting_max = spec.waiting_max},
                                   std::move(cache));
}

Leader::Leader(const ReplicaSpec& spec, std::unique_ptr<MessageSocket> socket, std::unique_ptr<Batcher> batcher,
               Communicator& communicator)
    : state_(std::make_unique<State>(spec, std::move(socket), std::move(batcher), communicator)) {}

Leader::~Leader() = default;

void Leader::start(const RegisterReplica& registration) {
  state_->registration = registration;
  state_->control = std::thread([this] { state_->run_control(); });
  state_->batching = std::thread([this] { state_->run_batcher(); });
  state_->results = std::thread([this] { state_->run_results(); });
}

void Leader::join() {
  state_->control.join();
  state_->batching.join();
  state_->results.join();
}

}  // namespace skein
