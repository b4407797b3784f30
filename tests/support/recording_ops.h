#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace skein::testing {

// The CPU's table with recordings. Launches between record() and end_record() are kept with their arguments as they
// are, and replay() runs them; unlike Ops demands, they don't run before that, as a CPU knows no rows of padding. For
// the same reason replicas must ask for at most four rows, of which every number has a recording. What a recording may
// not hold, copies and marks, CHECKs.
const Ops& recording_ops();
// So far, by all devices of the process.
int64_t replays();

}  // namespace skein::testing
