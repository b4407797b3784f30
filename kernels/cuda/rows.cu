#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "base/cuda_limits.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/row_chunks.cuh"

// The operations on one token's vector, all of them bound by memory: embedding, residual with RMSNorm, SwiGLU,
// picking rows. A thread handles chunks of eight elements. What a token gets depends on its own row alone.

namespace skein::cuda {
namespace {

constexpr int kThreadsMax = 1024;
constexpr int64_t kNormColumnsMax = 2 * kThreadsMax * kChunk;
static_assert(kNormColumnsMax == kCudaHiddenMax);
constexpr int kGridRowsMax = 32 * 1024;  // further rows by a loop

int threads_for(int64_t chunks, int most) {
  return static_cast<int>(std::min<int64_t>(round_up<int64_t>(std::max<int64_t>(chunks, 1), 32), most));
}

unsigned grid_rows(int64_t rows) { return static_cast<unsigned>(std::min<int64_t>(rows, kGridRowsMax)); }

// --- Embedding ---

struct EmbedJob {
  float* out;
  int64_t out_stride;
  const int32_t* token_ids;
  const __nv_bfloat16* table;
  int64_t table_stride;
  int64_t table_rows;
  int64_t first_token;
  int64_t tokens;
  int columns;
};

template <bool kVector>
__global__ void __launch_bounds__(512) embed_rows(EmbedJob job) {
  wait_for_previous_launch();
  let_next_launch_start();
  for (int64_t t = blockIdx.x; t < job.tokens; t += gridDim.x) {
    const int64_t row = job.token_ids[t] - job.first_token;
    const bool here = row >= 0 && row < job.table_rows;
    const __nv_bfloat16* from = job.table + (here ? row : 0) * job.table_stride;
    float* to = job.out + t * job.out_stride;
    for (int i = static_cast<int>(threadIdx.x) * kChunk; i < job.columns; i += static_cast<int>(blockDim.x) * kChunk) {
      Chunk v = {};
      if (here) v = load_chunk<kVector>(from, i, job.columns);
      store_chunk<kVector>(to, i, job.columns, v);
    }
  }
}

// --- Residual and norm ---

struct AddNormJob {
  float* residual;
  int64_t residual_stride;
  const __nv_bfloat16* x;  // or null
  int64_t x_stride;
  const float* weight;
  __nv_bfloat16* out;
  int64_t out_stride;
  int columns;
  float inverse_columns;
  float epsilon;
};

// The sum over the block, in an order that depends on the number of its threads alone.
__device__ __forceinline__ float block_sum(float v) {
  __shared__ __align__(16) float warps[32];
  v = warp_sum(v);
  const int warp = static_cast<int>(threadIdx.x / 32);
  if (threadIdx.x % 32 == 0) warps[warp] = v;
  if (threadIdx.x < 32 && threadIdx.x >= blockDim.x / 32) warps[threadIdx.x] = 0;
  __syncthreads();
  float4 sum = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float4 four = reinterpret_cast<const float4*>(warps)[i];
    sum = {sum.x + four.x, sum.y + four.y, sum.z + four.z, sum.w + four.w};
  }
  return (sum.x + sum.y) + (sum.z + sum.w);
}

// One block a token, kChunks chunks a thread: the row stays in registers.
template <int kChunks, int kThreads, bool kVector>
__global__ void __launch_bounds__(kThreads) add_norm_row(AddNormJob job) {
  const int64_t t = blockIdx.x;
  const int n = job.columns;
  const int first = static_cast<int>(threadIdx.x) * kChunk;
  const int step = static_cast<int>(blockDim.x) * kChunk;
  Chunk weight[kChunks];
  if constexpr (kVector) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) weight[c] = load_chunk<kVector>(job.weight, first + c * step, n);
  }
  wait_for_previous_launch();
  let_next_launch_start();

  // The sum of both, kept as the new residual.
  float* residual = job.residual + t * job.residual_stride;
  Chunk v[kChunks];
  Chunk x[kChunks] = {};
#pragma unroll
  for (int c = 0; c < kChunks; ++c) v[c] = load_chunk<kVector>(residual, first + c * step, n);
  if (job.x != nullptr) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) x[c] = load_chunk<kVector>(job.x + t * job.x_stride, first + c * step, n);
  }
  float even = 0, odd = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int j = 0; j < kChunk; j += 2) {
      v[c].at[j] += x[c].at[j];
      v[c].at[j + 1] += x[c].at[j + 1];
      even = fmaf(v[c].at[j], v[c].at[j], even);
      odd = fmaf(v[c].at[j + 1], v[c].at[j + 1], odd);
    }
  }
  if (job.x != nullptr) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) store_chunk<kVector>(residual, first + c * step, n, v[c]);
  }

  const float scale = rsqrtf(fmaf(block_sum(even + odd), job.inverse_columns, job.epsilon));
  __nv_bfloat16* out = job.out + t * job.out_stride;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if constexpr (!kVector) weight[c] = load_chunk<kVector>(job.weight, first + c * step, n);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) v[c].at[j] = weight[c].at[j] * (v[c].at[j] * scale);
    store_chunk<kVector>(out, first + c * step, n, v[c]);
  }
}

// --- SwiGLU ---

struct SiluMulJob {
  __nv_bfloat16* out;
  int64_t out_stride;
  const __nv_bfloat16* gate_up;
  int64_t gate_up_stride;
  int64_t tokens;
  int columns;
};

template <bool kVector>
__global__ void __launch_bounds__(256) silu_mul_rows(SiluMulJob job) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int n = job.columns;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * kChunk;
  if (i >= n) return;
  for (int64_t t = blockIdx.y; t < job.tokens; t += gridDim.y) {
    const __nv_bfloat16* gate = job.gate_up + t * job.gate_up_stride;
    Chunk v = load_chunk<kVector>(gate, i, n);
    const Chunk up = load_chunk<kVector>(gate + n, i, n);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) v.at[j] = __fdividef(v.at[j], 1 + __expf(-v.at[j])) * up.at[j];
    store_chunk<kVector>(job.out + t * job.out_stride, i, n, v);
  }
}

// --- Picking rows ---

// `Word`: what a thread copies at a time; strides and columns in words.
template <typename Word>
__global__ void __launch_bounds__(256) gather_row(Word* out, int64_t out_stride, const Word* x, int64_t x_stride,
                                                  const int32_t* rows, int64_t words, uint64_t* zeroed) {
  wait_for_previous_launch();
  let_next_launch_start();
  if (zeroed != nullptr && threadIdx.x == 0) zeroed[blockIdx.x] = 0;
  const int32_t row = rows[blockIdx.x];  // -1: padding
  const Word* from = x + (row < 0 ? 0 : row) * x_stride;
  Word* to = out + blockIdx.x * out_stride;
  for (int64_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = row < 0 ? Word{} : from[i];
}

void check_rows(const Tensor& x, Format format, int64_t rows, int64_t columns) {
  CHECK(x.format == format);
  CHECK(x.layout == Layout::kRowMajor);
  CHECK(x.data != nullptr || rows == 0);
  CHECK_EQ(x.rows, rows);
  CHECK_EQ(x.columns, columns);
  CHECK_GE(x.row_stride, columns);
  CHECK_LT(columns, int64_t{1} << 30);  // kernels count the columns of a row as int
}

}  // namespace

void embed(Device& device, const EmbedArgs& args) {
  const Tensor& out = args.out;
  const Tensor& table = args.table;
  check_rows(out, Format::kF32, out.rows, table.columns);
  CHECK(table.format == Format::kBF16 && table.data != nullptr);
  if (out.rows == 0) return;
  const EmbedJob job = {static_cast<float*>(out.data),
                        out.row_stride,
                        args.token_ids,
                        static_cast<const __nv_bfloat16*>(table.data),
                        table.layout == Layout::kPacked ? table.columns : table.row_stride,
                        table.rows,
                        args.first_token,
                        out.rows,
                        static_cast<int>(out.columns)};
  const bool vector = out.columns % kChunk == 0 && vectors_fit(job.out, job.out_stride) &&
                      vectors_fit(job.table, job.table_stride);
  launch(device_of(device), "embed", vector ? embed_rows<true> : embed_rows<false>,
         {.blocks = grid_rows(out.rows),
          .threads = static_cast<unsigned>(threads_for(ceil_div<int64_t>(out.columns, kChunk), 512))},
         job);
}

void add_norm(Device& device, const AddNormArgs& args) {
  const Tensor& out = args.out;
  check_rows(out, Format::kBF16, out.rows, out.columns);
  check_rows(args.residual, Format::kF32, out.rows, out.columns);
  if (args.x.data != nullptr) check_rows(args.x, Format::kBF16, out.rows, out.columns);
  CHECK(args.weight != nullptr);
  CHECK(out.columns > 0 && out.columns <= kNormColumnsMax);
  if (out.rows == 0) return;
  if (args.sum != nullptr) return add_norm_over_peers(device_of(device), args);
  const AddNormJob job = {static_cast<float*>(args.residual.data),
                          args.residual.row_stride,
                          static_cast<const __nv_bfloat16*>(args.x.data),
                          args.x.row_stride,
                          args.weight,
                          static_cast<__nv_bfloat16*>(out.data),
                          out.row_stride,
                          static_cast<int>(out.columns),
                          1 / static_cast<float>(out.columns),
                          args.epsilon};
  const bool vector = out.columns % kChunk == 0 && vectors_fit(job.residual, job.residual_stride) &&
                      (job.x == nullptr || vectors_fit(job.x, job.x_stride)) && vectors_fit(job.weight, 0) &&
                      vectors_fit(job.out, job.out_stride);
  const int64_t chunks = ceil_div<int64_t>(out.columns, kChunk);
  const auto kernel = !vector                 ? add_norm_row<2, kThreadsMax, false>
                      : chunks <= 512         ? add_norm_row<1, 512, true>
                      : chunks <= kThreadsMax ? add_norm_row<1, kThreadsMax, true>
                                              : add_norm_row<2, kThreadsMax, true>;
  const int threads = threads_for(chunks <= kThreadsMax ? chunks : ceil_div<int64_t>(chunks, 2), kThreadsMax);
  launch(device_of(device), "add_norm", kernel,
         {.blocks = static_cast<unsigned>(out.rows), .threads = static_cast<unsigned>(threads)}, job);
}

void silu_mul(Device& device, const SiluMulArgs& args) {
  const Tensor& out = args.out;
  check_rows(out, Format::kBF16, out.rows, out.columns);
  check_rows(args.gate_up, Format::kBF16, out.rows, 2 * out.columns);
  if (out.rows == 0 || out.columns == 0) return;
  const SiluMulJob job = {static_cast<__nv_bfloat16*>(out.data),
                          out.row_stride,
                          static_cast<const __nv_bfloat16*>(args.gate_up.data),
                          args.gate_up.row_stride,
                          out.rows,
                          static_cast<int>(out.columns)};
  const bool vector = out.columns % kChunk == 0 && vectors_fit(job.out, job.out_stride) &&
                      vectors_fit(job.gate_up, job.gate_up_stride);
  const int64_t chunks = ceil_div<int64_t>(out.columns, kChunk);
  const int threads = threads_for(chunks, 256);
  launch(device_of(device), "silu_mul", vector ? silu_mul_rows<true> : silu_mul_rows<false>,
         {.blocks = dim3(static_cast<unsigned>(ceil_div<int64_t>(chunks, threads)), grid_rows(out.rows)),
          .threads = static_cast<unsigned>(threads)},
         job);
}

void gather_rows(Device& device, const GatherRowsArgs& args) {
  const Tensor& out = args.out;
  const Tensor& x = args.x;
  CHECK_LE(args.count, out.rows);
  check_rows(out, x.format, out.rows, x.columns);
  check_rows(x, x.format, x.rows, x.columns);
  CHECK_EQ(info(x.format).block_elements, 1);
  if (args.count == 0) return;
  const int64_t bytes = info(x.format).block_bytes;
  const auto fits = [&](int64_t word) {
    return (reinterpret_cast<uintptr_t>(x.data) | reinterpret_cast<uintptr_t>(out.data) |
            static_cast<uintptr_t>((x.columns | x.row_stride | out.row_stride) * bytes)) % word == 0;
  };
  const auto run = [&]<typename Word>(Word*) {
    const auto words = [&](int64_t elements) { return elements * bytes / int64_t{sizeof(Word)}; };
    launch(device_of(device), "gather_rows", gather_row<Word>,
           {.blocks = static_cast<unsigned>(args.count),
            .threads = static_cast<unsigned>(threads_for(words(x.columns), 256))},
           static_cast<Word*>(out.data), words(out.row_stride), static_cast<const Word*>(x.data),
           words(x.row_stride), args.rows, words(x.columns), args.zeroed);
  };
  if (fits(16)) {
    run(static_cast<uint4*>(nullptr));
  } else {
    run(static_cast<uint16_t*>(nullptr));
  }
}

}  // namespace skein::cuda
