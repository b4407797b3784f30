#include "topology/service.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

// Assumptions: all requests are alike; they arrive at random (Poisson) and prompts are read in the order of arrival;
// the engine is never idle while somebody waits; decodes go into every step and prompts fill what room is left, in
// chunks of at most step_tokens_max tokens.
//
// With b sequences running, s(b) is the time of a step without prompts, and x(b) the device time that the chunks of one
// prompt add to the steps they share. Every request costs x and its share of `output` steps, so
//
//   rate = 1 / (x + output * s / b)         ITL = b / (rate * output) = s + x * b / output
//
// Prompts are a single server with service time x: by Pollaczek and Khinchine with equal service times a prompt waits
// rate * x * x / (2 * (1 - rate * x)), then half a step until the next one begins, then its own chunks' steps:
//
//   TTFT = request + s / 2 + rate * x^2 / (2 * (1 - rate * x)) + (sum over chunks of the steps that they share)

namespace skein {
namespace {

struct Prompt {
  double pace_us = 0;     // x: what it adds to the replica's work
  double latency_us = 0;  // the steps that its chunks share
};

int lanes_of(const ReplicaCost& cost, double concurrency) {
  return std::clamp(static_cast<int>(std::ceil(concurrency)), 1, cost.stages());
}

StepLoad decodes_of(const Load& load, double rows) {
  return {.decodes = rows, .context = load.input_tokens + 0.5 * load.output_tokens};
}

// A lane's step: alone in the replica, and on each stage while `lanes` of them are at work.
struct LaneStep {
  double alone_us = 0;
  std::vector<double> stages_us;
};

LaneStep step_of(const ReplicaCost& cost, const StepLoad& load, int lanes) {
  LaneStep step{.stages_us = cost.stages_us(load, lanes)};
  step.alone_us = cost.step_us(load, 1, cost.lanes_matter() ? cost.stages_us(load, 1) : step.stages_us);
  return step;
}

// A prompt's chunks in steps shared with `rows` decodes of its lane.
Prompt read_prompt(const ReplicaCost& cost, const Load& load, const ReplicaLimits& limits, double rows, int lanes) {
  const double room = std::max(1.0, limits.step_tokens_max - rows);
  StepLoad step = decodes_of(load, rows);
  LaneStep without{.stages_us = std::vector<double>(static_cast<size_t>(cost.stages()), 0)};
  if (rows > 0) without = step_of(cost, step, lanes);
  Prompt prompt;
  for (double done = 0; done < load.input_tokens;) {
    step.prompt_tokens = std::min(room, load.input_tokens - done);
    step.prompt_keys = done + 0.5 * (step.prompt_tokens + 1);
    done += step.prompt_tokens;
    step.prompt_rows = done >= load.input_tokens ? 1 : 0;
    const LaneStep with = step_of(cost, step, lanes);
    double slowest = 0;
    for (size_t stage = 0; stage < with.stages_us.size(); ++stage) {
      slowest = std::max(slowest, with.stages_us[stage] - without.stages_us[stage]);
    }
    // Lanes take turns on the slowest stage; with few of them nobody fills the others.
    prompt.pace_us += std::max(slowest, (with.alone_us - without.alone_us) / lanes);
    prompt.latency_us += with.alone_us;
  }
  return prompt;
}

}  // namespace

Operation operate(const ReplicaCost& cost, const Load& load, const ReplicaLimits& limits, double concurrency) {
  CHECK_GE(concurrency, 1);
  const int lanes = lanes_of(cost, concurrency);
  const double rows = concurrency / lanes;
  const double step = cost.step_us(decodes_of(load, rows), lanes);
  // A newcomer finds the others' rows.
  const Prompt prompt = read_prompt(cost, load, limits, (concurrency - 1) / lanes, lanes);
  const double rate = 1 / (prompt.pace_us + load.output_tokens * step / concurrency);  // per microsecond
  const double busy = rate * prompt.pace_us;
  const double wait = concurrency > 1 ? busy * prompt.pace_us / (2 * (1 - busy)) + step / 2 : 0;
  Operation operation;
  operation.concurrency = concurrency;
  operation.request_rate = rate * 1e6;
  operation.itl_ms = concurrency / (rate * load.output_tokens) / 1e3;
  operation.ttft_ms = (cost.request_us() + wait + prompt.latency_us) / 1e3;
  // Alone, a request's prompt delays nobody's tokens.
  if (concurrency == 1) operation.itl_ms = step / 1e3;
  operation.output_rate = operation.request_rate * load.output_tokens;
  return operation;
}

int concurrency_max(const Load& load, const ReplicaLimits& limits) {
  const int64_t tokens = int64_t{load.input_tokens} + load.output_tokens;
  return static_cast<int>(std::min<int64_t>(limits.sequences_max, limits.kv_tokens / tokens));
}

std::optional<Operation> best_operation(const ReplicaCost& cost, const Load& load, const ServiceLevel& level,
                                        const ReplicaLimits& limits) {
  return best_operation(level, concurrency_max(load, limits),
                        [&](int concurrency) { return operate(cost, load, limits, concurrency); });
}

std::optional<Operation> best_operation(const ServiceLevel& level, int most, const std::function<Operation(int)>& at) {
  std::optional<Operation> best;
  // 1, 2, 3, 4, 5, 6, 8, 10, ...: steps of a quarter at most, and the end itself.
  for (int concurrency = 1; concurrency <= most;) {
    const Operation operation = at(concurrency);
    const bool holds = (level.ttft_ms == 0 || operation.ttft_ms <= level.ttft_ms) &&
                       (level.itl_ms == 0 || operation.itl_ms <= level.itl_ms);
    if (holds && (!best || operation.request_rate > best->request_rate)) best = operation;
    if (concurrency == most) break;
    concurrency = std::min(most, concurrency + std::max(1, concurrency / 4));
  }
  return best;
}

Operation operation_at(const ReplicaCost& cost, const Load& load, const ReplicaLimits& limits) {
  Operation below = operate(cost, load, limits, 1);
  // Less than one sequence at a time: each has the replica to itself.
  if (below.request_rate >= load.request_rate) {
    below.concurrency = load.request_rate / below.request_rate;
    below.request_rate = load.request_rate;
    below.output_rate = load.request_rate * load.output_tokens;
    return below;
  }
  double low = 1;
  double high = std::max(2, concurrency_max(load, limits));
  for (int i = 0; i < 40; ++i) {
    const double middle = 0.5 * (low + high);
    (operate(cost, load, limits, middle).request_rate < load.request_rate ? low : high) = middle;
  }
  return operate(cost, load, limits, high);
}

}  // namespace skein
