#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"

// The GPU's table with launches left out by kind, to see what each kind adds to a recorded step: kinds are numbered in
// the order in which a step first launches them, and those behind the first few do nothing. What is measured so adds up
// to the step, with all overlap between launches; values are wrong, and nobody looks at them. For all ranks' threads.

namespace skein::bench {

struct StepPart {
  std::string name;
  int launches = 0;   // of a recorded step
  double bytes = 0;   // of all of them: each input read once, each output written once
  double flops = 0;
};

const Ops& partial_ops();
// Rows attend to so many keys.
void set_context(int tokens);
void keep_parts(int count);
// Those of the step that was recorded last while all were kept.
std::vector<StepPart> step_parts();

}  // namespace skein::bench
