#include "worker/work_counter.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace skein {

void WorkCounter::planned(const StepPlan& plan, Clock::time_point now) {
  Step step{.work = {.steps = 1}, .lane = plan.lane, .planned = now};
  StepWork& work = step.work;
  for (const PlanRow& row : plan.rows) {
    const auto first = static_cast<uint64_t>(row.first_position);
    const auto tokens = static_cast<uint64_t>(row.tokens);
    if (row.tokens == 1) {
      ++work.decodes;
      work.decode_keys += first + 1;
    } else {
      work.prompt_tokens += tokens;
      work.prompt_keys += first * tokens + tokens * (tokens + 1) / 2;
    }
  }
  work.prompt_rows = std::max<uint64_t>(plan.samples.size(), work.decodes) - work.decodes;
  in_flight_.push_back(step);
}

void WorkCounter::ended(Clock::time_point now) {
  CHECK(!in_flight_.empty());
  std::set<int32_t> lanes;
  for (const Step& step : in_flight_) lanes.insert(step.lane);
  const Step& step = in_flight_.front();
  StepWork& sum = step.work.prompt_tokens > 0 ? prefill_ : decode_;
  sum.steps += 1;
  sum.seconds += std::chrono::duration<double>(now - std::max(step.planned, last_end_)).count();
  sum.lanes += lanes.size();
  sum.decodes += step.work.decodes;
  sum.decode_keys += step.work.decode_keys;
  sum.prompt_tokens += step.work.prompt_tokens;
  sum.prompt_keys += step.work.prompt_keys;
  sum.prompt_rows += step.work.prompt_rows;
  in_flight_.pop_front();
  last_end_ = now;
}

}  // namespace skein
