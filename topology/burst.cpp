#include "topology/burst.h"

#include <algorithm>
#include <deque>

#include "base/check.h"
#include "base/replica_spec.h"

// What the batcher does, and this with it:
//
// - It plans when the first prompt is there, without waiting for others.
// - A lane's step takes its decodes first, then chunks of prompts in the order of admission, step_tokens_max tokens
//   in all. It admits as long as no lane has fewer sequences than its own, and on GPUs beyond that as far as the other
//   lanes can catch up with what waits; there, one of several lanes admits until the step has kGpuStepTokensEnough
//   tokens (the last prompt is cut, unless it is the step's only one and the lane not ahead).
// - With one stage two steps are in flight. With several it is one a lane, and the lane's next one is planned when its
//   tokens have come back.

namespace skein {
namespace {

constexpr int kOneStageSteps = 2;

class BurstRun {
 public:
  BurstRun(const ReplicaCost& cost, const ReplicaLimits& limits, int prompts, const Load& load)
      : cost_(cost),
        limits_(limits),
        load_(load),
        lanes_(static_cast<size_t>(cost.stages())),
        sequences_(static_cast<size_t>(prompts)),
        at_work_(std::min(cost.stages(), prompts)),
        free_us_(lanes_.size(), 0.0) {}

  Burst run() {
    arrived_ = 1;
    plan_all();
    arrived_ = sequences_.size();
    while (answered_ < sequences_.size()) {
      plan_all();
      CHECK(!flights_.empty());
      complete();
    }
    return {.prefill_s = (now_us_ + cost_.request_us()) / 1e6, .decode_step_ms = decode_step_us() / 1e3};
  }

 private:
  struct Sequence {
    int scheduled = 0;  // positions computed by steps so far
    int generated = 0;  // tokens that have come back
  };
  struct Lane {
    std::vector<size_t> running = {};  // in the order of admission
    int in_flight = 0;
  };
  struct Flight {
    size_t lane = 0;
    double result_us = 0;
    std::vector<size_t> sampled = {};
  };
  struct Step {
    StepLoad load = {};   // sums, not means, until it is complete
    int room = 0;
    Flight flight = {};
  };

  void plan_all() {
    const int most = cost_.stages() == 1 ? kOneStageSteps : 1;
    for (size_t tried = 0; tried < lanes_.size();) {
      const size_t lane = (next_lane_ + tried) % lanes_.size();
      if (lanes_[lane].in_flight < most && plan(lane)) {
        next_lane_ = (lane + 1) % lanes_.size();
        tried = 0;
      } else {
        ++tried;
      }
    }
  }

  // False: it has nothing to do.
  bool plan(size_t index) {
    Lane& lane = lanes_[index];
    Step step{.room = limits_.step_tokens_max, .flight = {.lane = index}};
    for (const size_t at : lane.running) {
      if (sequences_[at].scheduled >= load_.input_tokens) add_decode(at, &step);
    }
    for (const size_t at : lane.running) {
      if (sequences_[at].scheduled < load_.input_tokens) add_chunk(at, step.room, &step);
    }
    while (step.room > 0 && admitted_ < arrived_) {
      const size_t lead = lead_of(lane);
      const int tokens = limits_.step_tokens_max - step.room;
      const bool fills = lead > 0 || (lanes_.size() > 1 && cost_.on_gpus() && step.load.prompt_tokens > 0);
      if ((fills && tokens >= kGpuStepTokensEnough) || !may_admit(lead)) break;
      lane.running.push_back(admitted_);
      add_chunk(admitted_++, fills ? kGpuStepTokensEnough - tokens : step.room, &step);
    }
    if (step.room == limits_.step_tokens_max) return false;
    if (step.load.decodes > 0) step.load.context /= step.load.decodes;
    if (step.load.prompt_tokens > 0) step.load.prompt_keys /= step.load.prompt_tokens;
    launch(step.load, &step.flight);
    ++lane.in_flight;
    flights_.push_back(std::move(step.flight));
    return true;
  }

  size_t lead_of(const Lane& lane) const {
    const auto load = [](const Lane& any) { return any.running.size(); };
    return load(lane) - load(std::ranges::min(lanes_, {}, load));
  }

  bool may_admit(size_t lead) const { return lead == 0 || (cost_.on_gpus() && arrived_ - admitted_ > lead); }

  void add_decode(size_t at, Step* step) {
    Sequence& sequence = sequences_[at];
    // Nothing is sampled after the last token.
    if (step->room == 0 || sequence.scheduled >= load_.input_tokens + load_.output_tokens - 1) return;
    ++sequence.scheduled;
    ++step->load.decodes;
    step->load.context += sequence.scheduled;
    --step->room;
    step->flight.sampled.push_back(at);
  }

  void add_chunk(size_t at, int most, Step* step) {
    Sequence& sequence = sequences_[at];
    const int tokens = std::min({step->room, most, load_.input_tokens - sequence.scheduled});
    step->load.prompt_tokens += tokens;
    step->load.prompt_keys += tokens * (sequence.scheduled + 0.5 * (tokens + 1));
    sequence.scheduled += tokens;
    step->room -= tokens;
    if (sequence.scheduled < load_.input_tokens) return;
    ++step->load.prompt_rows;
    step->flight.sampled.push_back(at);
  }

  void launch(const StepLoad& load, Flight* flight) {
    const bool waits_for_host = now_us_ > 0 && (cost_.stages() > 1 || flights_.empty());
    double at = now_us_ + (waits_for_host ? cost_.host_us() : 0);
    const std::vector<double> stages_us = cost_.stages_us(load, at_work_);
    for (int stage = 0; stage < cost_.stages(); ++stage) {
      double& free = free_us_[static_cast<size_t>(stage)];
      if (stage == 0) {
        at = std::max(at, free);
      } else if (cost_.hands_over(stage - 1)) {
        at = std::max(at, free) + cost_.hop_us(stage - 1, load);
        free_us_[static_cast<size_t>(stage - 1)] = at;
      } else {
        at = std::max(at + cost_.hop_us(stage - 1, load), free);
      }
      at += stages_us[static_cast<size_t>(stage)];
      free = at;
    }
    flight->result_us = at;
  }

  // Results come in the order of the steps.
  void complete() {
    const Flight flight = std::move(flights_.front());
    flights_.pop_front();
    now_us_ = flight.result_us;
    Lane& lane = lanes_[flight.lane];
    --lane.in_flight;
    for (const size_t at : flight.sampled) {
      if (++sequences_[at].generated == 1) ++answered_;
    }
    std::erase_if(lane.running, [&](size_t at) { return sequences_[at].generated == load_.output_tokens; });
  }

  // Halfway from the last prompt's first token to the first answer's end.
  double decode_step_us() const {
    double generated = 0;
    int most = 0;
    for (const Sequence& sequence : sequences_) {
      generated += sequence.generated;
      most = std::max(most, sequence.generated);
    }
    const auto count = static_cast<double>(sequences_.size());
    const double context = load_.input_tokens + generated / count + 0.5 * (load_.output_tokens - most);
    return cost_.step_us({.decodes = count / at_work_, .context = context}, at_work_);
  }

  const ReplicaCost& cost_;
  const ReplicaLimits& limits_;
  const Load& load_;
  std::vector<Lane> lanes_;
  std::vector<Sequence> sequences_;  // in the order of arrival
  const int at_work_;                // lanes that have something to do
  std::vector<double> free_us_;      // by stage: when it is through with what was planned
  std::deque<Flight> flights_;
  double now_us_ = 0;
  size_t next_lane_ = 0;
  size_t arrived_ = 0;
  size_t admitted_ = 0;
  size_t answered_ = 0;              // sequences that have their first token
};

}  // namespace

Burst burst(const ReplicaCost& cost, const ReplicaLimits& limits, int prompts, const Load& load) {
  CHECK_GE(prompts, 1);
  const int at_once = std::clamp(concurrency_max(load, limits), 1, prompts);
  Burst burst = BurstRun(cost, limits, at_once, load).run();
  if (at_once < prompts) {
    burst.prefill_s += (prompts - at_once) / operate(cost, load, limits, at_once).request_rate;
  }
  return burst;
}

}  // namespace skein
