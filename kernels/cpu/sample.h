#pragma once

#include <cstdint>

#include "kernels/cpu/device.h"
#include "kernels/ops.h"

namespace skein {

// Samples or scores row `row` of the launch.
void sample_row(const SampleArgs& args, int row, const IsaKernels& kernels,
                const SampleScratch& scratch);

// A number in (0, 1) from Philox4x32-10 (Salmon et al., SC 2011) with counter (index, 0, 0, 0).
double philox_uniform(uint64_t seed, uint32_t index);

}  // namespace skein
