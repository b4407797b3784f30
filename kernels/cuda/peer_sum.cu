#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/peers.cuh"
#include "kernels/cuda/row_chunks.cuh"

// Sums over the ranks of a tensor-parallel group, added in rank order in f32. In one trip over NVLink each rank pushes
// its part to all others, between two ranks no word more than any other way. In two trips each row has a rank that gets
// the others' parts and pushes the sum back: 2 (n - 1) / n words for one of a rank's instead of n - 1.

namespace skein::cuda {
namespace {

constexpr int kRowThreadsMax = 1024;
constexpr int kFlatThreads = 512;
constexpr int kMeetThreads = 128;

// --- Sum, residual and norm ---

struct RowsJob {
  float* residual;
  int64_t residual_stride;
  const __nv_bfloat16* x;
  int64_t x_stride;
  const float* weight;
  __nv_bfloat16* out;
  int64_t out_stride;
  int tokens;
  int columns;  // a multiple of eight
  float inverse_columns;
  float epsilon;
};

// The sum of a unit over the ranks, this one's being `own`.
template <int kTogether, int kRanks>
__device__ __forceinline__ Chunk sum_of_parts(const Channel<kRanks>& channel, int rank, const uint4& own,
                                              int64_t offset) {
  Chunk sum = {};
  for (int first = 0; first < channel.size(); first += kTogether) {
    uint4 parts[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      parts[i] = first + i < channel.size() && first + i != rank ? channel.look(first + i, offset) : own;
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (first + i >= channel.size()) break;
      if (first + i != rank) parts[i] = channel.awaited(parts[i], first + i, offset);
      const Chunk part = unpack(parts[i]);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) sum.at[j] += part.at[j];
    }
  }
  return sum;
}

constexpr uint32_t kBf16Nans = 0x7fff7fffu;

// A block's rows, one after another; a row stays in registers, kChunks chunks a thread.
template <int kChunks>
class Rows {
 public:
  // Before wait_for_previous_launch().
  __device__ __forceinline__ explicit Rows(const RowsJob& job, float* warp_squares)
      : job_(job), warp_squares_(warp_squares) {
    if constexpr (kChunks == 1) held_weight_ = weight(0);
    if (threadIdx.x < kWarpsMax && threadIdx.x >= blockDim.x / 32) {
      warp_squares[threadIdx.x] = warp_squares[kWarpsMax + threadIdx.x] = 0;
    }
  }

  static constexpr int kWarpsMax = kRowThreadsMax / 32;
  // Of the warps' sums of squares: two rows' by turns, so that a row needs one barrier.
  static constexpr int kSquares = 2 * kWarpsMax;

  __device__ __forceinline__ int units() const { return job_.columns / kChunk; }
  __device__ __forceinline__ static int unit(int c) { return static_cast<int>(threadIdx.x + c * blockDim.x); }
  __device__ __forceinline__ bool has(int c) const { return unit(c) < units(); }
  // Of this thread's chunk in a message, of which the row is the one of that number.
  __device__ __forceinline__ int64_t offset(int row, int c) const {
    return (int64_t{row} * units() + unit(c)) * kUnitBytes;
  }

  __device__ __forceinline__ void load_x(int t, uint4 (&own)[kChunks]) const {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (!has(c)) continue;
      const __nv_bfloat16* x = job_.x + int64_t{t} * job_.x_stride + unit(c) * kChunk;
      own[c] = sendable(*reinterpret_cast<const uint4*>(x), kBf16Nans);
    }
  }
  __device__ __forceinline__ void load_residual(int t) {
    squares_ = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) v_[c] = load_chunk<true>(residual(t), unit(c) * kChunk, job_.columns);
  }
  // To the residual.
  __device__ __forceinline__ void add(int t, int c, const Chunk& sum) {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      v_[c].at[j] += sum.at[j];
      squares_ = fmaf(v_[c].at[j], v_[c].at[j], squares_);
    }
    store_chunk<true>(residual(t), unit(c) * kChunk, job_.columns, v_[c]);
  }
  // The new residual's norm. `turn`: 0, 1, 0, ... from row to row.
  __device__ __forceinline__ void write_norm(int t, int turn) {
    // The mean square: lanes, warps, then the warps' sums, always in this order.
    float* warp_squares = warp_squares_ + turn * kWarpsMax;
    float squares = warp_sum(squares_);
    if (threadIdx.x % 32 == 0) warp_squares[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0;
#pragma unroll
    for (int i = 0; i < kWarpsMax / 4; ++i) {
      const float4 four = reinterpret_cast<const float4*>(warp_squares)[i];
      squares += (four.x + four.y) + (four.z + four.w);
    }
    const float scale = rsqrtf(squares * job_.inverse_columns + job_.epsilon);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const Chunk of = kChunks == 1 ? held_weight_ : weight(c);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) v_[c].at[j] = of.at[j] * (v_[c].at[j] * scale);
      store_chunk<true>(job_.out + int64_t{t} * job_.out_stride, unit(c) * kChunk, job_.columns, v_[c]);
    }
  }

 private:
  __device__ __forceinline__ float* residual(int t) const { return job_.residual + int64_t{t} * job_.residual_stride; }
  __device__ __forceinline__ Chunk weight(int c) const {
    return load_chunk<true>(job_.weight, unit(c) * kChunk, job_.columns);
  }

  const RowsJob& job_;
  float* const warp_squares_;
  Chunk held_weight_ = {};  // there are registers for one
  Chunk v_[kChunks];
  float squares_ = 0;
};

// Block b has tokens b, b + blocks, ... Each row is sent before the one ahead of it is awaited.
template <int kChunks, int kRanks>
__global__ void __launch_bounds__(kRowThreadsMax, 1) sum_add_norm(const __grid_constant__ RowsJob job,
                                                                  const __grid_constant__ PeerGroup group) {
  constexpr int kTogether = kRanks > 0 ? kRanks : kChunks == 1 ? 4 : 2;  // looked at, as registers allow
  __shared__ alignas(16) float warp_squares[Rows<kChunks>::kSquares];
  Rows<kChunks> rows(job, warp_squares);
  const int blocks = static_cast<int>(gridDim.x);
  wait_for_previous_launch();
  let_next_launch_start();

  uint4 own[kChunks];
  rows.load_x(static_cast<int>(blockIdx.x), own);
  const Channel<kRanks> channel(group, static_cast<int>(blockIdx.x));
  const auto send_own = [&](int row) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (rows.has(c)) channel.send(rows.offset(row, c), own[c]);
    }
  };
  send_own(0);

  int row = 0;
  for (int t = static_cast<int>(blockIdx.x); t < job.tokens; t += blocks, ++row) {
    const bool more = t + blocks < job.tokens;
    if (more) {
      rows.load_x(t + blocks, own);
      send_own(row + 1);
    }
    if (more || row > 0) rows.load_x(t, own);
    rows.load_residual(t);
    if (row == 0) channel.empty_last();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (rows.has(c)) rows.add(t, c, sum_of_parts<kTogether>(channel, group.rank, own[c], rows.offset(row, c)));
    }
    rows.write_norm(t, row % 2);
  }
  if (threadIdx.x == 0) channel.finish(row * rows.units());
}

// In two trips: row r of block b belongs to rank (r + b) % size. A message has its receiver's rows and its sender's by
// turns: the sender's parts of the former, and sums of the latter.
template <int kChunks>
__global__ void __launch_bounds__(kRowThreadsMax, 1) sum_of_owners_add_norm(const __grid_constant__ RowsJob job,
                                                                            const __grid_constant__ PeerGroup group) {
  constexpr int kTogether = kChunks == 1 ? 4 : 2;
  __shared__ alignas(16) float warp_squares[Rows<kChunks>::kSquares];
  Rows<kChunks> rows(job, warp_squares);
  const int block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const int count = (job.tokens - block + blocks - 1) / blocks;
  const auto owner = [&](int row) { return (row + block) % group.size; };
  const auto token = [&](int row) { return block + row * blocks; };
  const auto part_of = [&](int row) { return row / group.size * 2; };
  const auto sum_of = [&](int row) { return row / group.size * 2 + 1; };
  wait_for_previous_launch();
  let_next_launch_start();
  const Channel<0> channel(group, block);
  uint4 own[kChunks];

  for (int row = 0; row < count; ++row) {
    if (owner(row) == group.rank) continue;
    rows.load_x(token(row), own);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (rows.has(c)) channel.send_to(owner(row), rows.offset(part_of(row), c), own[c]);
    }
  }
  channel.empty_last();

  int turn = 0;
  for (int row = 0; row < count; ++row) {
    if (owner(row) != group.rank) continue;
    rows.load_x(token(row), own);
    rows.load_residual(token(row));
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (!rows.has(c)) continue;
      const Chunk sum = sum_of_parts<kTogether>(channel, group.rank, own[c], rows.offset(part_of(row), c));
      const uint4 rounded = sendable(pack(sum), kBf16Nans);
      channel.send(rows.offset(sum_of(row), c), rounded);
      rows.add(token(row), c, unpack(rounded));
    }
    rows.write_norm(token(row), turn);
    turn = 1 - turn;
  }
  for (int row = 0; row < count; ++row) {
    if (owner(row) == group.rank) continue;
    rows.load_residual(token(row));
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (rows.has(c)) rows.add(token(row), c, unpack(channel.receive(owner(row), rows.offset(sum_of(row), c))));
    }
    rows.write_norm(token(row), turn);
    turn = 1 - turn;
  }
  if (threadIdx.x == 0) channel.finish(2 * ((count + group.size - 1) / group.size) * rows.units());
}

// --- Sum in place ---

template <typename T>
__device__ __forceinline__ uint4 add(const uint4& a, const uint4& b);

template <>
__device__ __forceinline__ uint4 add<float>(const uint4& a, const uint4& b) {
  const auto sum = [](uint32_t x, uint32_t y) { return __float_as_uint(__uint_as_float(x) + __uint_as_float(y)); };
  return {sum(a.x, b.x), sum(a.y, b.y), sum(a.z, b.z), sum(a.w, b.w)};
}

// Unit i of the sum. bf16 is added in f32 and rounded once.
template <typename T>
__device__ __forceinline__ uint4 sum_unit(const Channel<0>& channel, const PeerGroup& group, const uint4& own,
                                          int64_t offset) {
  const auto part = [&](int rank) { return rank == group.rank ? own : channel.receive(rank, offset); };
  if constexpr (sizeof(T) == 4) {
    uint4 sum = part(0);
    for (int rank = 1; rank < group.size; ++rank) sum = add<T>(sum, part(rank));
    return sum;
  } else {
    Chunk sum = unpack(part(0));
    for (int rank = 1; rank < group.size; ++rank) {
      const Chunk more = unpack(part(rank));
#pragma unroll
      for (int j = 0; j < kChunk; ++j) sum.at[j] += more.at[j];
    }
    return pack(sum);
  }
}

// Block b has units [b * share, (b + 1) * share); a thread sends and sums the same ones.
template <typename T>
__global__ void __launch_bounds__(kFlatThreads, 2) sum_flat(uint4* data, int64_t units, int share,
                                                         const __grid_constant__ PeerGroup group) {
  constexpr uint32_t kNan = sizeof(T) == 4 ? 0x7fffffffu : kBf16Nans;
  wait_for_previous_launch();
  let_next_launch_start();
  const Channel<0> channel(group, static_cast<int>(blockIdx.x));
  uint4* mine = data + int64_t{blockIdx.x} * share;
  const int count = static_cast<int>(min(int64_t{share}, units - int64_t{blockIdx.x} * share));
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kFlatThreads) {
    channel.send(int64_t{i} * kUnitBytes, sendable(mine[i], kNan));
  }
  channel.empty_last();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kFlatThreads) {
    mine[i] = sum_unit<T>(channel, group, sendable(mine[i], kNan), int64_t{i} * kUnitBytes);
  }
  __syncthreads();
  if (threadIdx.x == 0) channel.finish(count);
}

// --- Meeting ---

// One block. Unit 0 of a message says "here"; rank 0's has the values behind it. Without values, what a rank wrote to
// another one's memory in launches before is there when its "here" has come.
__global__ void __launch_bounds__(kMeetThreads, 1) meet(int32_t* values, int count,
                                                        const __grid_constant__ PeerGroup group) {
  constexpr uint32_t kFlip = 0x80000000u;  // so that -1 is not kNothing
  wait_for_previous_launch();
  let_next_launch_start();
  const Channel<0> channel(group, 0);
  const int units = 1 + (count + 3) / 4;
  const auto value_at = [&](int i) { return i < count ? static_cast<uint32_t>(values[i]) ^ kFlip : 0; };
  if (threadIdx.x == 0) {
    if (count == 0) fence_system();
    channel.send(0, {});
  }
  for (int unit = 1 + static_cast<int>(threadIdx.x); group.rank == 0 && unit < units; unit += kMeetThreads) {
    const int i = 4 * (unit - 1);
    channel.send(int64_t{unit} * kUnitBytes, {value_at(i), value_at(i + 1), value_at(i + 2), value_at(i + 3)});
  }
  if (threadIdx.x == 0) {
    for (int rank = 0; rank < group.size; ++rank) {
      if (rank != group.rank) channel.receive(rank, 0);
    }
    if (count == 0) fence_system();
  }
  for (int unit = 1 + static_cast<int>(threadIdx.x); group.rank != 0 && unit < units; unit += kMeetThreads) {
    const uint4 v = channel.receive(0, int64_t{unit} * kUnitBytes);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int i = 4 * (unit - 1) + j;
      if (i < count) values[i] = static_cast<int32_t>(words[j] ^ kFlip);
    }
  }
  channel.empty_last();
  __syncthreads();
  if (threadIdx.x == 0) channel.finish(units);
}

}  // namespace

void add_norm_over_peers(CudaDevice& device, const AddNormArgs& args) {
  const Tensor& out = args.out;
  const Tensor& x = args.x;
  const PeerGroup& group = *args.sum;
  CHECK(x.data != nullptr);
  const RowsJob job = {static_cast<float*>(args.residual.data),
                       args.residual.row_stride,
                       static_cast<const __nv_bfloat16*>(x.data),
                       x.row_stride,
                       args.weight,
                       static_cast<__nv_bfloat16*>(out.data),
                       out.row_stride,
                       static_cast<int>(out.rows),
                       static_cast<int>(out.columns),
                       1 / static_cast<float>(out.columns),
                       args.epsilon};
  CHECK_EQ(out.columns % kChunk, 0);
  CHECK(vectors_fit(job.residual, job.residual_stride) && vectors_fit(job.x, job.x_stride) &&
        vectors_fit(job.weight, 0) && vectors_fit(job.out, job.out_stride));
  const int64_t row_bytes = out.columns * int64_t{sizeof(__nv_bfloat16)};
  const int threads = Peers::row_threads(row_bytes);
  CHECK_LE(threads, kRowThreadsMax);
  const int64_t blocks = std::min<int64_t>(out.rows, group.channels);
  CHECK_LE(blocks, int64_t{device.multiprocessors()} * Peers::blocks_per_multiprocessor(threads));
  const int64_t rows = ceil_div(out.rows, blocks);
  const bool two_trips = group.two_trips(out.rows * row_bytes);
  CHECK_LE((two_trips ? 2 * ceil_div(rows, int64_t{group.size}) : rows) * row_bytes, group.channel_bytes);
  const bool one = out.columns <= int64_t{threads} * kChunk;
  auto* kernel = one ? sum_add_norm<1, 0> : sum_add_norm<2, 0>;
  if (one && group.size == 2) kernel = sum_add_norm<1, 2>;
  if (two_trips) kernel = one ? sum_of_owners_add_norm<1> : sum_of_owners_add_norm<2>;
  launch(device, "add_norm over peers", kernel,
         {.blocks = static_cast<unsigned>(blocks), .threads = static_cast<unsigned>(threads)}, job, group);
}

void peer_sum(Device& device, const PeerSumArgs& args) {
  const Tensor& x = args.x;
  const PeerGroup& group = *args.group;
  CHECK(x.format == Format::kF32 || x.format == Format::kBF16);
  CHECK(x.rows <= 1 || x.row_stride == x.columns);
  const int64_t bytes = x.rows * x.columns * info(x.format).block_bytes;
  CHECK_EQ(bytes % kUnitBytes, 0);
  if (bytes == 0) return;
  CHECK(vectors_fit(static_cast<const std::byte*>(x.data), 0));
  const int64_t units = bytes / kUnitBytes;
  CHECK_LE(bytes, group.channels * group.channel_bytes);
  const int64_t blocks = std::clamp<int64_t>(ceil_div<int64_t>(units, kFlatThreads),
                                             ceil_div(bytes, group.channel_bytes), group.channels);
  const int64_t share = ceil_div(units, blocks);
  launch(device_of(device), "peer_sum", x.format == Format::kF32 ? sum_flat<float> : sum_flat<__nv_bfloat16>,
         {.blocks = static_cast<unsigned>(ceil_div(units, share)), .threads = kFlatThreads},
         static_cast<uint4*>(x.data), units, static_cast<int>(share), group);
}

void peer_meet(Device& device, const PeerMeetArgs& args) {
  CHECK(args.count >= 0 && (args.count == 0 || args.values != nullptr));
  CHECK_LE((1 + ceil_div(args.count, 4)) * kUnitBytes, args.group->channel_bytes);
  launch(device_of(device), "peer_meet", meet, {.blocks = 1, .threads = kMeetThreads}, args.values, args.count,
         *args.group);
}

}  // namespace skein::cuda
