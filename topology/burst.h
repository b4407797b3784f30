#pragma once

#include "topology/service.h"

namespace skein {

// All prompts at once, as `skein bench offline` sends them.
struct Burst {
  double prefill_s = 0;        // until the last prompt's first token
  double decode_step_ms = 0;   // afterwards, while all decode
};

// Plays the batcher's steps (worker/batcher_plan.cpp) through the stages, one by one. Prompts beyond those that run at
// once come at the rate of a full replica. Requires: prompts >= 1.
Burst burst(const ReplicaCost& cost, const ReplicaLimits& limits, int prompts, const Load& load);

}  // namespace skein
