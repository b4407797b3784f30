#include "kernels/cpu/attention.h"
#include "kernels/cpu/embed.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/noise.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/row_scan.h"

namespace skein {

const IsaKernels& vnni_kernels() {
  static constexpr IsaKernels kKernels = {
      "vnni", linear, embed, add_norm, rope_append, attention, silu_mul,
      maximum, exp_sum, sum, count_not_less, find_not_less, exp_row, draw,
  };
  return kKernels;
}

}  // namespace skein
