#include "base/check.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/plain_attention.h"
#include "kernels/cuda/prefill_attention.h"

namespace skein::cuda {

// Rows of one query each go to the decode kernel, in one launch with their rotation and append where the step has no
// other rows; the rest to the prefill kernel. What neither of them serves is computed plainly.
void attention(Device& device, const AttentionArgs& args) {
  CudaDevice& gpu = device_of(device);
  const StepView& step = args.step;
  if (step.tokens == 0) return;
  CHECK(step.decode_rows >= 0 && step.decode_rows <= step.rows);
  const bool fits = step.decode_rows > 0 && decode_attention_fits(args);
  const bool decode_only = step.decode_rows == step.rows;
  const bool fused = fits && decode_only && args.append != nullptr && decode_attention_fuses_append(args);
  if (args.append != nullptr && !fused) rope_append(device, *args.append);
  if (fits) decode_attention(gpu, args, fused);
  const int first_row = fits ? step.decode_rows : 0;
  if (first_row == step.rows) return;
  if (prefill_attention_fits(args)) {
    prefill_attention(gpu, args, first_row);
  } else {
    plain_attention(gpu, args, first_row);
  }
}

}  // namespace skein::cuda
