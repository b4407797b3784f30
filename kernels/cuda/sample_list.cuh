#pragma once

#include "kernels/cuda/sample_search.cuh"

// The end of a search: the few tokens of a band as a sorted list in the cluster's first block, and the stages of a draw
// (top-k, top-p, the draw itself), each a target for the running count or mass over falling weights.

namespace skein::cuda {

inline constexpr int kStages = 3;
inline constexpr uint32_t kOctave = 1u << 23;         // of a weight's bits
inline constexpr uint32_t kWeightOne = 0x3f800000;    // the likeliest token's

__device__ __forceinline__ uint64_t draw_target(double uniform, uint64_t mass) {
  return __double2ull_rz(uniform * static_cast<double>(mass)) + 1;
}

struct Stages {
  int n;               // the vocabulary
  uint32_t available;  // tokens that min-p leaves
  int32_t top_k;
  float top_p;
  double uniform;

  // What stage `stage` looks for, if anything, where `mass` is what the stages before it kept.
  __device__ bool target(int stage, uint64_t mass, Target* out) const {
    out->by_mass = stage > 0;
    if (stage == 0) {
      out->value = static_cast<uint64_t>(max(top_k, 1));
      return top_k > 0 && top_k < n && static_cast<uint32_t>(top_k) < available;
    }
    if (stage == 1) {
      out->value = max(__double2ull_ru(static_cast<double>(top_p) * static_cast<double>(mass)), 1ull);
      return top_p < 1;
    }
    out->value = draw_target(uniform, mass);
    return true;
  }
};

struct Progress {
  uint64_t mass;  // kept so far
  int32_t token;  // the last that the stage before kept; of the last stage, the drawn one
  int stage;      // to do next
};

// Puts the tokens with keys in [low, high), with key `low` only up to token `last`, into block 0's list, in any order.
// There are at most kListMax.
template <typename Slice>
__device__ __forceinline__ void list_band(const Slice& slice, uint32_t low, uint32_t high, int32_t last) {
  SearchShared& shared = search_shared();
  const int lane = thread_index() % 32;
  const auto each_listed = [&](const auto& body) {
    each_four(slice, [&](int i) {
      const uint4 four = *reinterpret_cast<const uint4*>(slice.keys() + i);
      const uint32_t keys[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int32_t token = slice.first + i + j;
        if (keys[j] - low < high - low && (keys[j] != low || token <= last)) body(keys[j], token);
      }
    });
  };
  uint32_t own = 0;
  each_listed([&](uint32_t, int32_t) { ++own; });
  if (__any_sync(~0u, own != 0)) {
    uint32_t through = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t lower = __shfl_up_sync(~0u, through, step);
      if (lane >= step) through += lower;
    }
    uint32_t begin = 0;
    if (lane == 31) begin = add_at(shared_address_of(&shared.listed, 0), through);
    uint32_t at = __shfl_sync(~0u, begin, 31) + through - own;
    each_listed([&](uint32_t key, int32_t token) {
      if (at >= kListMax) return;  // never
      store_to(shared_address_of(&shared.list[at++], 0), uint64_t{key} << 32 | ~static_cast<uint32_t>(token));
    });
  }
  cluster_sync();
}

struct Listed {
  Found found;  // this thread's
  int count;    // of the whole list
};

// By block 0: its list in order, one token a thread; the list is empty afterwards.
__device__ __forceinline__ Listed sort_list() {
  SearchShared& shared = search_shared();
  const auto t = thread_index();
  const int count = static_cast<int>(shared.listed);
  uint64_t own = t < count ? shared.list[t] : 0;
  __syncthreads();
  if (t == 0) shared.listed = 0;
  int size = 32;
  while (size < count) size *= 2;
  // Bitonic, falling.
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      uint64_t other;
      if (step >= 32) {
        __syncthreads();
        shared.list[t] = own;
        __syncthreads();
        other = shared.list[t ^ step];
      } else {
        other = __shfl_xor_sync(~0u, own, step);
      }
      const bool first = (t & step) == 0;
      const bool falling = (t & run) == 0 || run == size;
      own = (own > other) == (first == falling) ? own : other;
    }
  }
  return {{static_cast<uint32_t>(own >> 32), static_cast<int32_t>(~static_cast<uint32_t>(own))}, count};
}

// By block 0: as many stages as end within the list, which holds the band's tokens.
template <typename Slice>
__device__ __forceinline__ void resolve(const Slice& slice, const Listed& listed, const Band& band,
                                        const Stages& stages, Progress& progress) {
  SearchShared& shared = search_shared();
  const auto t = thread_index();
  const uint64_t own = t < listed.count ? mass_of(listed.found.key, slice.mass_scale) : 0;
  uint64_t through = inclusive_scan(own);
  __syncthreads();
  if (t % 32 == 31) shared.prefix[t / 32] = through;
  __syncthreads();
  through += band.high_mass;
  for (int warp = 0; warp < t / 32; ++warp) through += shared.prefix[warp];
  for (;;) {
    Target target;
    if (stages.target(progress.stage, progress.mass, &target)) {
      const bool before = target.by_mass ? through < target.value : band.high_count + t + 1 < target.value;
      const int at = min(__syncthreads_count(t < listed.count && before), listed.count - 1);
      if (t == at) {
        shared.owner_target = through;
        shared.found = listed.found;
      }
      __syncthreads();
      progress.mass = shared.owner_target;
      progress.token = shared.found.token;
    }
    if (++progress.stage == kStages || band.high_count != 0) return;
  }
}

// All blocks get block 0's.
__device__ __forceinline__ Progress share(const Progress& progress) {
  SearchShared& shared = search_shared();
  const bool first = cluster_rank() == 0;
  if (first) __syncthreads();  // all of block 0 have read what is overwritten now
  if (first && thread_index() < kClusterBlocks) {
    const uint32_t to = shared_address_of(&shared.found, thread_index());
    store_to(to, static_cast<uint32_t>(progress.stage));
    store_to(to + 4, static_cast<uint32_t>(progress.token));
    store_to(shared_address_of(&shared.owner_target, thread_index()), progress.mass);
  }
  cluster_sync();
  return {shared.owner_target, shared.found.token, static_cast<int>(shared.found.key)};
}

}  // namespace skein::cuda
