#include "base/check.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/plain_attention.h"
#include "kernels/cuda/prefill_attention.h"

namespace skein::cuda {
namespace {

// The rows [first, last) of a step, as a step of their own; token numbers stay.
StepView rows_of(StepView step, int first, int last) {
  step.query_begin_host += first;
  step.query_begin += first;
  step.slots += first;
  step.rows = last - first;
  step.decode_rows = 0;
  return step;
}

// The rows from `first` on, by as many launches of the prefill kernel as their number takes. Plainly where the model's
// shapes are not that kernel's, and from a row on that is longer than a launch.
void prompt_attention(CudaDevice& device, AttentionArgs args, int first) {
  const StepView step = args.step;
  while (first < step.rows) {
    args.step = rows_of(step, first, first + prefill_attention_rows(step, first));
    if (!prefill_attention_fits(args)) {
      args.step = step;
      return plain_attention(device, args, first);
    }
    prefill_attention(device, args, 0);
    first += args.step.rows;
  }
}

// A decoded token is a prompt of one token: all rows take the prefill kernel, which on a deterministic device adds up a
// query's keys in an order that its position alone decides.
void deterministic_attention(CudaDevice& device, const AttentionArgs& args) {
  if (args.append != nullptr) rope_append(device, *args.append);
  prompt_attention(device, args, 0);
}

}  // namespace

// Rows of one query each go to the decode kernel, in one launch with their rotation and append where the step has no
// other rows; the rest to the prefill kernel. What neither of them serves is computed plainly.
void attention(Device& device, const AttentionArgs& args) {
  CudaDevice& gpu = device_of(device);
  const StepView& step = args.step;
  if (step.tokens == 0) return;
  if (gpu.deterministic()) return deterministic_attention(gpu, args);
  CHECK(step.decode_rows >= 0 && step.decode_rows <= step.rows);
  const bool fits = step.decode_rows > 0 && decode_attention_fits(args);
  const bool decode_only = step.decode_rows == step.rows;
  const bool fused = fits && decode_only && args.append != nullptr && decode_attention_fuses_append(args);
  if (args.append != nullptr && !fused) rope_append(device, *args.append);
  if (fits) decode_attention(gpu, args, fused);
  prompt_attention(gpu, args, fits ? step.decode_rows : 0);
}

}  // namespace skein::cuda
