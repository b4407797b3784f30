#pragma once

#include "base/status.h"
#include "kernels/cpu/isa_kernels.h"

namespace skein {

// The kernels for this machine: the best that cpuid and the operating system allow, or the one that the
// environment's SKEIN_CPU_ISA (avx2, avx512, vnni) names. kUnsupported without AVX2, FMA and F16C, or if
// the named one isn't there.
Result<const IsaKernels*> choose_kernels();

}  // namespace skein
