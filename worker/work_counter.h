#pragma once

#include <chrono>
#include <deque>

#include "comm/wire.h"
#include "worker/step_plan.h"

namespace skein {

// What a replica's steps did and how long they took. Not thread-safe.
class WorkCounter {
 public:
  using Clock = std::chrono::steady_clock;

  // Steps end in the order in which they were planned.
  void planned(const StepPlan& plan, Clock::time_point now);
  void ended(Clock::time_point now);

  size_t in_flight() const { return in_flight_.size(); }
  const StepWork& decode() const { return decode_; }    // of steps without prompts
  const StepWork& prefill() const { return prefill_; }  // of the others

 private:
  struct Step {
    StepWork work;
    int32_t lane = 0;
    Clock::time_point planned;
  };

  std::deque<Step> in_flight_;
  Clock::time_point last_end_;
  StepWork decode_, prefill_;
};

}  // namespace skein
