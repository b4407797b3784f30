#include "kernels/cuda/vector_linear.h"

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/largest_key.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace skein::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 4;   // of the weight, a block's; gated: two of the gate and two of up
constexpr int kChunk = 8;  // elements, 16 bytes

struct VectorJob {
  unsigned char* out;
  const __nv_bfloat16* x;
  const __nv_bfloat16* weight;
  const float* bias;
  int64_t weight_stride;
  int outputs;  // columns of out
  int chunks;   // of a row
  bool out_f32;
  uint64_t* largest;  // or null
};

__device__ __forceinline__ float silu(float v) { return v / (1 + __expf(-v)); }

// Row `i` of the block's rows; rows past the end repeat the last one and are not stored.
template <bool kGated>
__device__ __forceinline__ int weight_row(const VectorJob& job, int i) {
  if constexpr (kGated) {
    const int output = min(static_cast<int>(blockIdx.x) * (kRows / 2) + i / 2, job.outputs - 1);
    return i % 2 == 0 ? output : job.outputs + output;
  } else {
    return min(static_cast<int>(blockIdx.x) * kRows + i, job.outputs - 1);
  }
}

__device__ __forceinline__ void add_products(float& sum, const uint4& w, const uint4& x) {
  const uint32_t weights[4] = {w.x, w.y, w.z, w.w};
  const uint32_t values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    sum = fmaf(low_bf16(weights[p]), low_bf16(values[p]), sum);
    sum = fmaf(high_bf16(weights[p]), high_bf16(values[p]), sum);
  }
}

template <bool kGated>
__global__ void __launch_bounds__(kThreads, 4) vector_rows(VectorJob job) {
  const uint64_t policy = evict_first_policy();
  const __nv_bfloat16* rows[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) rows[r] = job.weight + weight_row<kGated>(job, r) * job.weight_stride;
  uint4 w[kRows];
  const auto load = [&](int chunk) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) w[r] = load_once(rows[r] + int64_t{chunk} * kChunk, policy);
  };
  int chunk = static_cast<int>(threadIdx.x);
  if (chunk < job.chunks) load(chunk);
  wait_for_previous_launch();
  let_next_launch_start();
  uint64_t known = 0;  // others have raised it at least so far
  if constexpr (!kGated) {
    if (job.largest != nullptr && threadIdx.x == 0) known = __ldcg(job.largest);
  }

  float sum[kRows] = {};
  while (chunk < job.chunks) {
    const uint4 x = *reinterpret_cast<const uint4*>(job.x + int64_t{chunk} * kChunk);
#pragma unroll
    for (int r = 0; r < kRows; ++r) add_products(sum[r], w[r], x);
    chunk += kThreads;
    if (chunk < job.chunks) load(chunk);
  }

  // Lanes, then warps, in order.
  __shared__ float of_warps[kWarps][kRows];
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum[r] += __shfl_xor_sync(~0u, sum[r], step);
    if (thread % 32 == 0) of_warps[thread / 32][r] = sum[r];
  }
  __syncthreads();
  constexpr int kStored = kGated ? kRows / 2 : kRows;
  const int output = static_cast<int>(blockIdx.x) * kStored + thread;
  if (thread >= kStored) return;
  const auto total = [&](int r) {
    float v = of_warps[0][r];
#pragma unroll
    for (int k = 1; k < kWarps; ++k) v += of_warps[k][r];
    return job.bias == nullptr ? v : v + job.bias[weight_row<kGated>(job, r)];
  };
  float value;
  if constexpr (kGated) {
    value = silu(total(2 * thread)) * total(2 * thread + 1);
  } else {
    value = total(thread);
  }
  if constexpr (!kGated) {
    if (job.largest != nullptr) {
      raise_largest(job.largest, known, output < job.outputs ? largest_key(value, output) : 0, (1u << kStored) - 1);
    }
  }
  if (output >= job.outputs) return;
  if (job.out_f32) {
    reinterpret_cast<float*>(job.out)[output] = value;
  } else {
    reinterpret_cast<__nv_bfloat16*>(job.out)[output] = __float2bfloat16(value);
  }
}

}  // namespace

bool vector_linear_fits(const Tensor& x, const Tensor& weight) {
  const auto address = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data); };
  return x.rows == 1 && weight.columns % kChunk == 0 && weight.row_stride % kChunk == 0 && address(x) % 16 == 0 &&
         address(weight) % 16 == 0;
}

void vector_linear(CudaDevice& device, const VectorLinearArgs& args) {
  CHECK(vector_linear_fits(args.x, args.weight));
  CHECK_EQ(args.out.columns * (args.gated ? 2 : 1), args.weight.rows);
  const VectorJob job{.out = static_cast<unsigned char*>(args.out.data),
                      .x = static_cast<const __nv_bfloat16*>(args.x.data),
                      .weight = static_cast<const __nv_bfloat16*>(args.weight.data),
                      .bias = args.bias,
                      .weight_stride = args.weight.row_stride,
                      .outputs = static_cast<int>(args.out.columns),
                      .chunks = static_cast<int>(args.weight.columns / kChunk),
                      .out_f32 = args.out.format == Format::kF32,
                      .largest = args.largest};
  const int outputs_a_block = args.gated ? kRows / 2 : kRows;
  const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(job.outputs, outputs_a_block))),
                  .threads = dim3(kThreads)};
  launch(device, "vector_linear", args.gated ? vector_rows<true> : vector_rows<false>, grid, job);
}

}  // namespace skein::cuda
