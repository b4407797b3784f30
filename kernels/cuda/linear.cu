#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/narrow_linear.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tiled_linear.h"
#include "kernels/cuda/vector_linear.h"

// Products, by whom LinearChoice names: up to 16 tokens our own kernels, which read weights at the memory's speed, by
// dot products for one token and by the tensor cores for more; then whoever was the fastest when they were timed. Rows
// that nobody can read (not 16-byte aligned) are for a plain kernel that is right and slow. A deterministic device has
// the batch-invariant kernels instead, at every number of tokens; the plain one is invariant, too. kVector and kNarrow
// tell the rows' largest outputs, up to kLargestTokensMax; the others leave LinearArgs::largest as it is.

namespace skein::cuda {
namespace {

constexpr int kPlainWarps = 4;
constexpr int kBiasThreads = 256;

struct PlainArgs {
  unsigned char* out = nullptr;
  const __nv_bfloat16* x = nullptr;
  const __nv_bfloat16* weight = nullptr;
  const float* bias = nullptr;
  int64_t out_stride = 0;
  int64_t x_stride = 0;
  int64_t weight_stride = 0;
  int outputs = 0;
  int inputs = 0;
  int tokens = 0;
  bool out_f32 = false;
};

__device__ __forceinline__ void store(unsigned char* out, int64_t at, bool f32, float value) {
  if (f32) {
    reinterpret_cast<float*>(out)[at] = value;
  } else {
    reinterpret_cast<__nv_bfloat16*>(out)[at] = __float2bfloat16(value);
  }
}

// A warp for each element of out.
__global__ void __launch_bounds__(kPlainWarps * 32) plain_linear_kernel(const PlainArgs args) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int64_t element = int64_t{blockIdx.x} * kPlainWarps + threadIdx.x / 32;
  if (element >= int64_t{args.tokens} * args.outputs) return;
  const int64_t token = element / args.outputs;
  const int64_t output = element % args.outputs;
  float sum = 0;
  for (int i = static_cast<int>(threadIdx.x % 32); i < args.inputs; i += 32) {
    sum = fmaf(__bfloat162float(args.x[token * args.x_stride + i]),
               __bfloat162float(args.weight[output * args.weight_stride + i]), sum);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  if (threadIdx.x % 32 != 0) return;
  if (args.bias != nullptr) sum += args.bias[output];
  store(args.out, token * args.out_stride + output, args.out_f32, sum);
}

__global__ void __launch_bounds__(kBiasThreads)
    add_bias_kernel(unsigned char* out, const float* bias, int outputs, int64_t out_stride, bool out_f32) {
  const int output = static_cast<int>(blockIdx.x) * kBiasThreads + static_cast<int>(threadIdx.x);
  const float add = output < outputs ? bias[output] : 0;
  wait_for_previous_launch();
  let_next_launch_start();
  if (output >= outputs) return;
  const int64_t at = blockIdx.y * out_stride + output;
  const float value = out_f32 ? reinterpret_cast<const float*>(out)[at]
                              : __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(out)[at]);
  store(out, at, out_f32, value + add);
}

void check_product(const Tensor& out, const Tensor& x, const Tensor& weight) {
  CHECK_EQ(x.columns, weight.columns);
  CHECK_EQ(out.columns, weight.rows);
  CHECK_EQ(out.rows, x.rows);
  CHECK(x.format == Format::kBF16 && weight.format == Format::kBF16);
  CHECK(out.format == Format::kBF16 || out.format == Format::kF32);
  CHECK(out.row_stride >= out.columns && x.row_stride >= x.columns);
  CHECK_GE(weight.row_stride, weight.columns);
}

void plain_linear(CudaDevice& device, const LinearArgs& args) {
  const PlainArgs plain = {.out = static_cast<unsigned char*>(args.out.data),
                           .x = static_cast<const __nv_bfloat16*>(args.x.data),
                           .weight = static_cast<const __nv_bfloat16*>(args.weight.data),
                           .bias = args.bias,
                           .out_stride = args.out.row_stride,
                           .x_stride = args.x.row_stride,
                           .weight_stride = args.weight.row_stride,
                           .outputs = static_cast<int>(args.weight.rows),
                           .inputs = static_cast<int>(args.weight.columns),
                           .tokens = static_cast<int>(args.x.rows),
                           .out_f32 = args.out.format == Format::kF32};
  const int64_t blocks = ceil_div<int64_t>(args.x.rows * args.weight.rows, kPlainWarps);
  launch(device, "plain linear", plain_linear_kernel,
         {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = dim3(kPlainWarps * 32)}, plain);
}

void add_bias(CudaDevice& device, const LinearArgs& args) {
  const int64_t blocks = ceil_div<int64_t>(args.out.columns, kBiasThreads);
  launch(device, "bias", add_bias_kernel,
         {.blocks = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.out.rows)),
          .threads = dim3(kBiasThreads)},
         static_cast<unsigned char*>(args.out.data), args.bias, static_cast<int>(args.out.columns), args.out.row_stride,
         args.out.format == Format::kF32);
}

void library_linear(CudaDevice& device, const LinearArgs& args) {
  if (!device.cublas().multiply(device, args)) return plain_linear(device, args);
  if (args.bias != nullptr) add_bias(device, args);
}

// A product, then SwiGLU.
void apart(CudaDevice& device, const GatedLinearArgs& args, void (*product)(CudaDevice&, const LinearArgs&)) {
  product(device, {.out = args.gate_up, .x = args.x, .weight = args.weight, .bias = args.bias});
  silu_mul(device, {.out = args.out, .gate_up = args.gate_up});
}

NarrowPlan narrow_plan(const CudaDevice& device, const Tensor& x, const Tensor& weight, bool gated) {
  return plan_narrow(weight.rows / (gated ? 2 : 1), x.rows, gated, device.multiprocessors());
}

TiledPlan tiled_plan(const CudaDevice& device, LinearWay way, const Tensor& x, const Tensor& weight, bool gated) {
  const int multiprocessors = device.multiprocessors();
  if (way == LinearWay::kInvariant) return plan_invariant(x, weight, gated, multiprocessors);
  return plan_streaming(x, weight, gated, way == LinearWay::kSplit ? 2 : 1, multiprocessors);
}

}  // namespace

bool linear_way_fits(LinearWay way, const Tensor& x, const Tensor& weight, bool gated) {
  switch (way) {
    case LinearWay::kVector: return vector_linear_fits(x, weight);
    case LinearWay::kNarrow: return x.rows <= kNarrowTokensMax && narrow_can(x, weight);
    case LinearWay::kInvariant: return gated ? tiled_gated_fits(x, weight) : tiled_linear_fits(x, weight);
    case LinearWay::kStreaming:
      return x.rows <= kStreamingTokensMax && linear_way_fits(LinearWay::kInvariant, x, weight, gated);
    case LinearWay::kSplit: return splits_fit(weight) && linear_way_fits(LinearWay::kStreaming, x, weight, gated);
    case LinearWay::kLibrary: break;
  }
  return true;
}

void run_linear(CudaDevice& device, LinearWay way, const LinearArgs& args) {
  switch (way) {
    case LinearWay::kVector:
      return vector_linear(device,
                           {.out = args.out, .x = args.x, .weight = args.weight, .bias = args.bias, .gated = false,
                            .largest = args.largest});
    case LinearWay::kNarrow: return narrow_linear(device, args, narrow_plan(device, args.x, args.weight, false));
    case LinearWay::kInvariant:
    case LinearWay::kStreaming:
    case LinearWay::kSplit: return tiled_linear(device, args, tiled_plan(device, way, args.x, args.weight, false));
    case LinearWay::kLibrary: return library_linear(device, args);
  }
}

void run_gated_linear(CudaDevice& device, LinearWay way, const GatedLinearArgs& args) {
  switch (way) {
    case LinearWay::kVector:
      return vector_linear(device,
                           {.out = args.out, .x = args.x, .weight = args.weight, .bias = args.bias, .gated = true});
    case LinearWay::kNarrow: return narrow_gated_linear(device, args, narrow_plan(device, args.x, args.weight, true));
    case LinearWay::kInvariant:
    case LinearWay::kStreaming:
    case LinearWay::kSplit: return tiled_gated_linear(device, args, tiled_plan(device, way, args.x, args.weight, true));
    case LinearWay::kLibrary: return apart(device, args, library_linear);
  }
}

void linear(Device& device, const LinearArgs& args) {
  CudaDevice& gpu = device_of(device);
  check_product(args.out, args.x, args.weight);
  CHECK(args.largest == nullptr || args.out.format == Format::kF32);
  if (args.x.rows == 0) return;
  if (!gpu.deterministic()) {
    return run_linear(gpu, gpu.linear_choice().way(args.x, args.weight, false, args.out.format == Format::kF32), args);
  }
  // What is asked here must not change with the number of tokens.
  tiled_linear_fits(args.x, args.weight) ? run_linear(gpu, LinearWay::kInvariant, args) : plain_linear(gpu, args);
}

void gated_linear(Device& device, const GatedLinearArgs& args) {
  CudaDevice& gpu = device_of(device);
  check_product(args.gate_up, args.x, args.weight);
  CHECK_EQ(args.out.rows, args.x.rows);
  CHECK_EQ(args.out.columns * 2, args.weight.rows);
  CHECK(args.out.format == Format::kBF16);
  if (args.x.rows == 0) return;
  if (!gpu.deterministic()) {
    return run_gated_linear(gpu, gpu.linear_choice().way(args.x, args.weight, true, false), args);
  }
  if (tiled_gated_fits(args.x, args.weight)) return run_gated_linear(gpu, LinearWay::kInvariant, args);
  apart(gpu, args, [](CudaDevice& invariant, const LinearArgs& product) { linear(invariant, product); });
}

}  // namespace skein::cuda
