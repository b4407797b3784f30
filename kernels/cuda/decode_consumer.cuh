#pragma once

#include "base/checked.h"
#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/rope.cuh"

// The warps that compute: queries, tiles, chunks, and the result of a row and KV head.

namespace skein::cuda::decode {

template <int kHeadDim, int kGroups>
struct Consumer {
  using Memory = Shared<kHeadDim, kGroups>;
  using Stages = Ring<kHeadDim, kGroups>;
  using Result = Partial<kHeadDim>;
  static constexpr int kVectors = kHeadDim / 64;
  const Parameters& p;
  Memory& shared;
  const int thread;
  const int lane;
  const int warp;
  bool waited = false;  // for the launch before
  int first_head = 0;   // of the run's KV head
  int heads = 0;
  uint32_t query[kGroups][kHeadDim / 16][2];
  WarpState<kHeadDim, kGroups> state;
  Slice<kHeadDim, kGroups> folded;

  __device__ void wait_once() {
    if (waited) return;
    wait_for_previous_launch();
    let_next_launch_start();
    waited = true;
  }

  // The run's q heads, rotated, as the products' B operands; its newest key and value to shared memory.
  __device__ void start_run(const Work& work) {
    constexpr int kLanes = kHeadDim / 16;  // of a head
    constexpr int kRows = 8 * kGroups;
    constexpr int kPitch = Memory::kQueryPitch;
    first_head = p.first_head(work.kv_head);
    heads = p.head_count(work.kv_head);
    const bool append = p.append && (work.flags & Work::kLastChunk) != 0;
    PairVector at = pair_vector(thread % kLanes, 8, p.rotary_half);
    at.rotated &= work.tokens > 0;
    float rotation[16];
    load_rotation<8>(p.cos_sin + int64_t{work.tokens - 1} * 2 * p.rotary_half, at, rotation);
    wait_once();

    named_barrier_sync(kConsumerBarrier, kConsumers);  // all have read what `queries` overlays
#pragma unroll
    for (int round = 0; round < ceil_div(kRows + 2, kConsumers / kLanes); ++round) {
      // Rows of the matrix of queries, zeros behind the last head; then the key, then the value.
      const int i = thread / kLanes + round * (kConsumers / kLanes);
      const bool is_key = append && i == kRows;
      const bool is_value = append && i == kRows + 1;
      int source = -1;
      if (i < heads) source = first_head + i;
      if (is_key) source = p.q_heads + work.kv_head;
      if (is_value) source = p.q_heads + p.page_heads + work.kv_head;
      Bf16Vector<8> low = {};
      Bf16Vector<8> high = {};
      if (source >= 0) {
        const __nv_bfloat16* head = p.q + work.row * p.q_stride + source * kHeadDim;
        low = *reinterpret_cast<const Bf16Vector<8>*>(head + at.low);
        high = *reinterpret_cast<const Bf16Vector<8>*>(head + at.high);
      }
      if (p.append) {
        float a[8];
        float b[8];
        low.unpack(a);
        high.unpack(b);
        const float* norm = is_key ? p.k_norm : p.q_norm;
        if (p.q_norm != nullptr || p.k_norm != nullptr) {
          const float scale = rsqrtf(sum_over_lanes(square_sum<8>(a, b), kLanes) / kHeadDim + p.epsilon);
          if (!is_value && norm != nullptr) {
            scale_by<8>(a, scale, norm + at.low);
            scale_by<8>(b, scale, norm + at.high);
          }
        }
        if (!is_value) rotate<8>(a, b, rotation);
        low = Bf16Vector<8>::pack(a);
        high = Bf16Vector<8>::pack(b);
      }
      __nv_bfloat16* to = shared.queries + i * kPitch;
      if (is_key) to = shared.new_key;
      if (is_value) to = shared.new_value;
      if (i < kRows || is_key || is_value) {
        *reinterpret_cast<Bf16Vector<8>*>(to + at.low) = low;
        *reinterpret_cast<Bf16Vector<8>*>(to + at.high) = high;
      }
    }
    named_barrier_sync(kConsumerBarrier, kConsumers);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; step += 2) {
        uint32_t b[4];
        load_matrix_x4(b, shared.queries + (8 * g + lane % 8) * kPitch + 16 * step + lane / 8 * 8);
        query[g][step][0] = b[0];
        query[g][step][1] = b[1];
        query[g][step + 1][0] = b[2];
        query[g][step + 1][1] = b[3];
      }
    }
    state.clear();
    folded.clear();
  }

  // The newest token's key and value to their page and into the tile's block of 16 tokens that they belong to.
  __device__ void append_token(const Work& work, int block, uint8_t* keys, uint8_t* values) {
    constexpr int kChunks = kHeadDim / 8;
    if (lane < 2 * kChunks) {
      const int is_value = lane / kChunks;
      const int chunk = lane % kChunks;
      const int token = (work.tokens - 1) % 16;
      const uint4 bits = reinterpret_cast<const uint4*>(is_value ? shared.new_value : shared.new_key)[chunk];
      uint8_t* to = (is_value ? values : keys) + chunk / 8 * 2048 + token * 128 + ((chunk ^ token) % 8) * 16;
      *reinterpret_cast<uint4*>(to) = bits;
      fence_async_shared();  // the copy engine writes there next
      const int64_t plane = (int64_t{block} * p.page_heads + work.kv_head) * 2 + is_value;
      const int64_t row = plane * p.block_tokens + (work.tokens - 1) % p.block_tokens;
      reinterpret_cast<uint4*>(p.pages + row * kHeadDim)[chunk] = bits;
    }
    __syncwarp();
  }

  __device__ void attend_tile(const Work& work, int stage) {
    const int first = work.first_token + 16 * warp;
    if (first >= work.tokens || first + 16 <= work.begin) return;
    uint8_t* keys = shared.ring + stage * Stages::kStageBytes + warp * Stages::kBlockBytes;
    uint8_t* values = keys + kWarps * Stages::kBlockBytes;
    if (p.append && first + 16 >= work.tokens) {
      const int block = __shfl_sync(0xffffffff, lane == 0 ? shared.last_block[stage] : 0, 0);
      append_token(work, block, keys, values);
    }
    attend<kHeadDim, kGroups>(keys, values, query, work, first, p.scale, state);
  }

  // Where the result of a chunk, or of a run from the first chunk on, is stored.
  __device__ float4* partial(const Work& work, int chunk, int share) const {
    const int line = p.clusters ? work.row * p.plan.kv_heads + work.kv_head : share;
    return p.partials + (line * p.plan.splits + chunk) * kGroups * Result::float4s(p.pairs);
  }

  __device__ float4 vector_of(int g, int v) const {
    return {folded.out[g][v][0], folded.out[g][v][1], folded.out[g][v][2], folded.out[g][v][3]};
  }
  __device__ float4 sums_of(int g) const {
    return {folded.maximum[g][0], folded.sum[g][0], folded.maximum[g][1], folded.sum[g][1]};
  }

  __device__ void store_partial(float4* to) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g, to += Result::float4s(p.pairs)) {
      if (lane % 4 >= p.pairs) continue;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) __stcg(to + Result::vector_at(v, thread, p.pairs), vector_of(g, v));
      if (thread < 4) __stcg(to + Result::sums_at(thread, p.pairs), sums_of(g));
    }
  }

  // The chunk that ends with this tile: into the run's result or, where earlier chunks are elsewhere, to memory on its
  // own.
  __device__ void end_chunk(const Work& work) {
    merge_warps<kHeadDim, kGroups>(shared, state, folded);
    if (work.run_begin == 0 || work.in_cluster(p)) return;
    store_partial(partial(work, work.chunk, work.share));
    folded.clear();
  }

  // To the first block of the cluster.
  __device__ void send(const Work& work) {
    const uint32_t barrier = shared_address_of(&shared.received, 0);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const uint32_t to = shared_address_of(shared.received_at(work.chunk, g), 0);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        store_and_count(to + Result::vector_at(v, thread, 4) * 16, vector_of(g, v), barrier);
      }
      if (thread < 4) store_and_count(to + Result::sums_at(thread, 4) * 16, sums_of(g), barrier);
    }
  }

  // Folds what the other blocks of the cluster send.
  __device__ void receive(const Work& work) {
    constexpr uint32_t kBytes = kGroups * Result::float4s(4) * 16;
    if (thread == 0) barrier_arrive_expect(&shared.received, static_cast<uint32_t>(work.chunks - 1) * kBytes);
    barrier_wait(&shared.received, 0);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      float4 sums[kClusterBlocks - 1];
      float4 vectors[kClusterBlocks - 1][kVectors];
#pragma unroll
      for (int i = 0; i < kClusterBlocks - 1; ++i) {
        const float4* from = shared.received_at(min(i + 1, work.chunks - 1), g);  // the last one again behind the last
        sums[i] = from[Result::sums_at(thread, 4)];
#pragma unroll
        for (int v = 0; v < kVectors; ++v) vectors[i][v] = from[Result::vector_at(v, thread, 4)];
        if (i + 1 >= work.chunks) sums[i].x = sums[i].z = kNothing;
      }
      fold<kClusterBlocks - 1, kVectors>(folded.maximum[g], folded.sum[g], folded.out[g], sums, vectors);
    }
  }

  __device__ uint32_t* counter_of(const Work& work) const {
    return p.counters + work.row * p.plan.kv_heads + work.kv_head;
  }
  __device__ static uint32_t chunks_in_run(const Work& work) {
    return static_cast<uint32_t>(work.chunk + 1 - work.run_begin);
  }

  // Whether the run has the first chunks, and others the rest, which they mostly have stored before it ends: a share
  // begins with what the one before left.
  __device__ bool is_opener(const Work& work) const {
    return !p.clusters && work.run_begin == 0 && work.chunk + 1 < work.chunks;
  }
  // While the last tile of such a run comes. merge_warps() has the barriers that tell all.
  __device__ void look_for_others(const Work& work) {
    if (thread != 0) return;
    const auto others = static_cast<uint32_t>(work.chunks) - chunks_in_run(work);
    shared.others_arrived = load_acquire(counter_of(work)) == others;
  }

  // Whether this block is the last of those with chunks of the row and KV head.
  __device__ bool arrive(const Work& work) {
    named_barrier_sync(kConsumerBarrier, kConsumers);
    if (thread == 0) {
      uint32_t* counter = counter_of(work);
      const uint32_t mine = chunks_in_run(work);
      __threadfence();
      const uint32_t arrived = atomicAdd(counter, mine) + mine;
      __threadfence();
      shared.arrived = static_cast<int>(arrived);
      if (arrived == static_cast<uint32_t>(work.chunks)) *counter = 0;
    }
    named_barrier_sync(kConsumerBarrier, kConsumers);
    return shared.arrived == work.chunks;
  }

  // Folds the parts that blocks have stored of the row and KV head, from part `begin` on. Part 0 is what the opener has
  // folded of its own.
  __device__ void combine(const Work& work, int begin) {
    constexpr int kAtOnce = 8 / kGroups;
    const Shares shares = shared.shares;
    int opened = work.run_chunks;  // chunks of the first block
    if (!p.clusters) {
      const int opener = shares.owner(work.head_begin);
      opened = ceil_div(shares.begin(opener + 1) - work.head_begin, work.chunk_cost);
    }
    const int parts = 1 + max(work.chunks - opened, 0);
    const int lane_pair = thread / 4 * 4 + min(lane % 4, p.pairs - 1);  // without the pairs that are not stored
    const float4* from_vectors = p.partials + Result::vector_at(0, lane_pair, p.pairs);
    const float4* from_sums = p.partials + Result::sums_at(lane_pair, p.pairs);
#pragma unroll 1
    for (int first = begin; first < parts; first += kAtOnce) {
      // Each lane finds one part, the last one again behind the last, then everyone loads all.
      const int part = min(first + lane % kAtOnce, parts - 1);
      const int chunk = part == 0 ? 0 : opened + part - 1;
      const int share = p.clusters ? 0 : shares.owner(work.head_begin + chunk * work.chunk_cost);
      const auto mine = static_cast<int>(partial(work, chunk, share) - p.partials);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        float4 sums[kAtOnce];
        float4 out[kAtOnce][kVectors];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int at = __shfl_sync(0xffffffff, mine, i) + g * Result::float4s(p.pairs);
          sums[i] = __ldcg(from_sums + at);
#pragma unroll
          for (int v = 0; v < kVectors; ++v) out[i][v] = __ldcg(from_vectors + at + v * kConsumers / 4 * p.pairs);
        }
#pragma unroll
        for (int i = 1; i < kAtOnce; ++i) {
          if (first + i >= parts) sums[i].x = sums[i].z = kNothing;
        }
        fold<kAtOnce, kVectors>(folded.maximum[g], folded.sum[g], folded.out[g], sums, out);
      }
    }
  }

  __device__ void write_out(const Work& work) const {
    __nv_bfloat16* row = p.out + work.row * p.out_stride + first_head * kHeadDim + warp * (kHeadDim / kWarps);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      float inverse[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) inverse[h] = folded.sum[g][h] == 0 ? 0 : reciprocal(folded.sum[g][h]);
      const int head = 8 * g + lane / 4;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const uint32_t pair =
              transposed(pack_bf16(folded.out[g][v][i] * inverse[0], folded.out[g][v][i + 1] * inverse[1]));
          __nv_bfloat16* to = row + head * kHeadDim + 16 * v + 4 * i + lane % 4 * 2;
          if (head < heads) *reinterpret_cast<uint32_t*>(to) = pair;
        }
      }
    }
  }

  __device__ void end_run(const Work& work) {
    const bool whole = work.run_begin == 0 && work.chunk + 1 == work.chunks;
    if (!whole && work.in_cluster(p)) {
      if (work.run_begin > 0) {
        send(work);
        return;
      }
      receive(work);
    } else if (!whole) {
      const bool holds_first = is_opener(work) && shared.others_arrived;
      if (holds_first) {
        if (thread == 0) *counter_of(work) = 0;  // all others have counted
      } else {
        if (work.run_begin == 0) store_partial(partial(work, 0, work.share));
        if (!arrive(work)) return;
        folded.clear();
      }
      combine(work, holds_first ? 1 : 0);
    }
    write_out(work);
  }

  // The ring's next tile, read by the lane that gives the stage back. What is of the run stays as it is within a run.
  __device__ void next_work(const Stages& ring, Work& work) const {
    constexpr int kVectors = sizeof(Work) / sizeof(int4);
    barrier_wait(&shared.described[ring.stage], ring.parity);
    const auto* from = reinterpret_cast<const int4*>(&shared.work[ring.stage]);
    int4 words[kVectors];
    memcpy(words, &work, sizeof work);
    words[0] = broadcast(from);
    if ((words[0].x & Work::kRunStart) != 0) {
#pragma unroll
      for (int i = 1; i < kVectors; ++i) words[i] = broadcast(from + i);
    }
    memcpy(&work, words, sizeof work);
  }

  __device__ int4 broadcast(const int4* from) const {
    int4 value = {};
    if (lane == 0) value = *from;
    return {__shfl_sync(0xffffffff, value.x, 0), __shfl_sync(0xffffffff, value.y, 0),
            __shfl_sync(0xffffffff, value.z, 0), __shfl_sync(0xffffffff, value.w, 0)};
  }

  __device__ void consume() {
    Stages ring;
    Work work = {};
    while (true) {
      next_work(ring, work);
      if ((work.flags & Work::kStop) != 0) break;
      if (work.in_cluster(p)) ring.stages = Stages::kStagesBesidesReceived;
      start_run(work);
      while (true) {
        if ((work.flags & Work::kRunEnd) != 0 && is_opener(work)) look_for_others(work);
        barrier_wait(&shared.filled[ring.stage], ring.parity);
        attend_tile(work, ring.stage);
        __syncwarp();
        if (lane == 0) barrier_arrive(&shared.emptied[ring.stage]);
        ring.advance();
        if ((work.flags & Work::kChunkEnd) != 0) {
          end_chunk(work);
          if ((work.flags & Work::kRunEnd) != 0) break;
          state.clear();
        }
        next_work(ring, work);
      }
      end_run(work);
    }
    wait_once();  // no block may end before the launch before has
  }
};

}  // namespace skein::cuda::decode
