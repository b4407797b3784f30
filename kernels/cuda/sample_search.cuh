#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/sample_row.cuh"

// A row of the vocabulary spread over a cluster, as 32-bit keys that compare as what they stand for, and the search
// for the token at which a running count or a running mass, keys falling, reaches a target. It sorts no more than a few
// hundred tokens: passes with three pivots each narrow the band of keys that holds the token, until the tokens in the
// band fit a list. Block sums are integers (a weight of 1 is 2^s), so they do not depend on who adds first.

namespace skein::cuda {

inline constexpr int kMassesMax = 5;
inline constexpr int kCountsMax = 4;
inline constexpr int kPivots = 3;
inline constexpr int kListMax = kSampleThreads;  // one a thread
inline constexpr uint32_t kAboveAll = 0xffffffff;

// What the threads of a cluster add up.
struct Sums {
  uint64_t mass[kMassesMax];
  uint32_t count[kCountsMax];
};

struct Found {
  uint32_t key;
  int32_t token;
};

struct SearchShared {
  Sums from[2][kClusterBlocks];  // written by the blocks of the cluster, in turns
  Sums warps[kSampleWarps];
  Sums total;
  uint32_t max_from[2][kClusterBlocks];
  uint32_t warp_max[kSampleWarps];
  uint64_t owner_target;
  uint32_t owner_warp;
  Found found;
  uint32_t turn;            // of `from` and `max_from`
  uint32_t listed;          // block 0: tokens in the list
  uint64_t list[kListMax];  // block 0: key, then ~token: falling keys, then rising tokens
  uint64_t prefix[kSampleWarps];
};
static_assert(sizeof(SearchShared) <= kStateBytes);

__device__ __forceinline__ SearchShared& search_shared() { return *reinterpret_cast<SearchShared*>(block_memory()); }

// This block's part of the row: keys of tokens [first, first + kSampleWarps * chunk), a chunk for each warp. Key 0: no
// token.
template <bool kSharedKeys>
struct RowSlice {
  uint32_t* memory;  // of the keys, unless shared memory holds them
  int chunk;         // a multiple of 128
  int first;
  int n;             // the vocabulary
  float mass_scale;  // 2^s

  __device__ __forceinline__ uint32_t* keys() const {
    return kSharedKeys ? reinterpret_cast<uint32_t*>(block_memory() + kStateBytes) : memory;
  }
};

// The tokens at which the search may end: keys in [low, high).
struct Band {
  uint32_t low, high;
  uint32_t low_count, high_count;  // of all keys at or above each
  uint64_t low_mass, high_mass;
};

struct Target {
  bool by_mass;
  uint64_t value;  // at least 1

  __device__ bool reached(uint64_t mass, uint32_t count) const { return (by_mass ? mass : count) >= value; }
};

// body(index in the slice of the first of four neighbours). A lane sees the same indices every time.
template <int kUnroll = 2, typename Slice, typename Body>
__device__ __forceinline__ void each_four(const Slice& slice, const Body& body) {
  const int begin = thread_index() / 32 * slice.chunk;
  const int end = begin + slice.chunk;
#pragma unroll kUnroll
  for (int i = begin + thread_index() % 32 * 4; i < end; i += 128) body(i);
}

__device__ __forceinline__ uint64_t mass_of(float weight, float scale) { return __float2ull_rn(weight * scale); }
__device__ __forceinline__ uint64_t mass_of(uint32_t key, float scale) { return mass_of(__uint_as_float(key), scale); }

__device__ __forceinline__ uint64_t warp_sum(uint64_t v) {
  if (!__any_sync(~0u, v != 0)) return 0;
  constexpr uint32_t kPiece = (1u << 27) - 1;  // 32 of them fit 32 bits
  uint64_t sum = __reduce_add_sync(~0u, static_cast<uint32_t>(v) & kPiece);
  sum += static_cast<uint64_t>(__reduce_add_sync(~0u, static_cast<uint32_t>(v >> 27) & kPiece)) << 27;
  if (__any_sync(~0u, v >> 54 != 0)) {
    sum += static_cast<uint64_t>(__reduce_add_sync(~0u, static_cast<uint32_t>(v >> 54))) << 54;
  }
  return sum;
}

__device__ __forceinline__ void warp_sum(Sums& v) {
#pragma unroll
  for (int m = 0; m < kMassesMax; ++m) v.mass[m] = warp_sum(v.mass[m]);
#pragma unroll
  for (int c = 0; c < kCountsMax; ++c) v.count[c] = __reduce_add_sync(~0u, v.count[c]);
}

// What cluster_sum() calls, once in the code: it is long, and needed everywhere.
__device__ __noinline__ void add_up(uint64_t m0, uint64_t m1, uint64_t m2, uint64_t m3, uint64_t m4, uint32_t c0,
                                    uint32_t c1, uint32_t c2, uint32_t c3) {
  SearchShared& shared = search_shared();
  const int warp = thread_index() / 32;
  const int lane = thread_index() % 32;
  Sums v = {{m0, m1, m2, m3, m4}, {c0, c1, c2, c3}};
  const uint32_t turn = shared.turn;
#pragma unroll 1
  for (int level = 0; level < 3; ++level) {
    // Lanes, then warps, then blocks; from the second level on it is the first warp's.
    if (level == 0 || warp == 0) {
      if (level == 1) v = lane < kSampleWarps ? shared.warps[lane] : Sums{};
      if (level == 2) v = lane < kClusterBlocks ? shared.from[turn][lane] : Sums{};
      warp_sum(v);
      if (level == 0 && lane == 0) shared.warps[warp] = v;
      if (level == 1 && lane < kClusterBlocks) {
        const uint32_t to = shared_address_of(&shared.from[turn][cluster_rank()], lane);
#pragma unroll
        for (int m = 0; m < kMassesMax; ++m) store_to(to + 8 * m, v.mass[m]);
#pragma unroll
        for (int c = 0; c < kCountsMax; ++c) store_to(to + 8 * kMassesMax + 4 * c, v.count[c]);
      }
      if (level == 2 && lane == 0) {
        shared.total = v;
        shared.turn = turn ^ 1;
      }
    }
    if (level == 1) cluster_sync();
    if (level != 1) __syncthreads();
  }
}

// The sums over all threads of the cluster, good until the next call. Leaves the blocks' sums in from[the turn before],
// the warps' in `warps`.
__device__ __forceinline__ const Sums& cluster_sum(const Sums& v) {
  add_up(v.mass[0], v.mass[1], v.mass[2], v.mass[3], v.mass[4], v.count[0], v.count[1], v.count[2], v.count[3]);
  return search_shared().total;
}
__device__ __forceinline__ uint64_t cluster_sum(uint64_t mass) { return cluster_sum(Sums{{mass}, {}}).mass[0]; }
__device__ __forceinline__ uint32_t cluster_sum(uint32_t count) { return cluster_sum(Sums{{}, {count}}).count[0]; }

__device__ __forceinline__ uint32_t cluster_max(uint32_t v) {
  SearchShared& shared = search_shared();
  const int lane = thread_index() % 32;
  v = __reduce_max_sync(~0u, v);
  if (lane == 0) shared.warp_max[thread_index() / 32] = v;
  __syncthreads();
  const uint32_t turn = shared.turn;
  if (thread_index() < 32) {
    v = __reduce_max_sync(~0u, lane < kSampleWarps ? shared.warp_max[lane] : 0);
    if (lane < kClusterBlocks) store_to(shared_address_of(&shared.max_from[turn][cluster_rank()], lane), v);
  }
  cluster_sync();
  v = 0;
#pragma unroll
  for (int block = 0; block < kClusterBlocks; ++block) v = max(v, shared.max_from[turn][block]);
  if (thread_index() == 0) shared.turn = turn ^ 1;
  __syncthreads();
  return v;
}

__device__ __forceinline__ uint64_t inclusive_scan(uint64_t v) {
  const int lane = thread_index() % 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t lower = __shfl_up_sync(~0u, v, step);
    if (lane >= step) v += lower;
  }
  return v;
}

// The token at which, in the order of tokens, the running sum of worth(key) reaches `target`, which is at least 1 and
// at most its total; the last with any worth if rounding took the rest. The last cluster_sum() had the worth of each
// thread's keys as mass[0].
template <typename Slice, typename Worth>
__device__ __forceinline__ Found locate(const Slice& slice, uint64_t target, const Worth& worth) {
  SearchShared& shared = search_shared();
  const uint32_t turn = shared.turn ^ 1;
  const uint32_t rank = cluster_rank();
  const int warp = thread_index() / 32;
  const int lane = thread_index() % 32;
  uint64_t before = 0;
#pragma unroll
  for (uint32_t block = 0; block < kClusterBlocks; ++block) {
    before += block < rank ? shared.from[turn][block].mass[0] : 0;
  }
  if (before < target && target <= before + shared.from[turn][rank].mass[0]) {
    // It is in this block: which warp has it?
    if (warp == 0) {
      const uint64_t own = lane < kSampleWarps ? shared.warps[lane].mass[0] : 0;
      const uint64_t through = inclusive_scan(own) + before;
      if (through - own < target && target <= through) {
        shared.owner_warp = static_cast<uint32_t>(lane);
        shared.owner_target = target - (through - own);
      }
    }
    __syncthreads();
    if (warp == static_cast<int>(shared.owner_warp)) {
      // Which lane, in which round of the warp's chunk?
      uint64_t left = shared.owner_target;
      int at = -1;
#pragma unroll 1
      for (int i = warp * slice.chunk + lane * 4; i < (warp + 1) * slice.chunk; i += 128) {
        const uint4 four = *reinterpret_cast<const uint4*>(slice.keys() + i);
        const uint64_t worths[4] = {worth(four.x), worth(four.y), worth(four.z), worth(four.w)};
        const uint64_t own = worths[0] + worths[1] + worths[2] + worths[3];
        const uint64_t through = inclusive_scan(own);
        const uint64_t round = __shfl_sync(~0u, through, 31);
        const bool here = round >= left;
        const uint64_t wanted = here ? left : round;  // the last of this round may turn out to be the last at all
        const int owner = __ffs(static_cast<int>(__ballot_sync(~0u, through >= wanted))) - 1;
        uint64_t running = through - own;
        int offset = 0;
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          running += worths[j];
          offset += running < wanted ? 1 : 0;
        }
        offset = __shfl_sync(~0u, i + offset, owner);
        if (round > 0) at = offset;
        if (here) break;
        left -= round;
      }
      if (lane < kClusterBlocks) {
        const uint32_t to = shared_address_of(&shared.found, lane);
        store_to(to, slice.keys()[at]);
        store_to(to + 4, static_cast<uint32_t>(slice.first + at));
      }
    }
  }
  cluster_sync();
  return shared.found;
}

// The nth token of those with keys in [low, high).
template <typename Slice>
__device__ __forceinline__ Found locate_nth(const Slice& slice, uint32_t low, uint32_t high, uint64_t nth) {
  const auto worth = [&](uint32_t key) -> uint64_t { return key >= low && key < high; };
  uint32_t own = 0;
  each_four(slice, [&](int i) {
    const uint4 four = *reinterpret_cast<const uint4*>(slice.keys() + i);
    own += worth(four.x) + worth(four.y) + worth(four.z) + worth(four.w);
  });
  cluster_sum(uint64_t{own});
  return locate(slice, nth, worth);
}

// One pass over the band's keys with rising pivots in (low, high): leaves the part in which the target is reached.
template <typename Slice>
__device__ __forceinline__ void split(const Slice& slice, Band& band, const Target& target,
                                      const uint32_t (&pivot)[kPivots]) {
  float mass[kPivots] = {};
  Sums v = {};
  const uint32_t width = band.high - pivot[0];
  each_four(slice, [&](int i) {
    const uint4 four = *reinterpret_cast<const uint4*>(slice.keys() + i);
    const uint32_t keys[4] = {four.x, four.y, four.z, four.w};
    bool any = false;
#pragma unroll
    for (int j = 0; j < 4; ++j) any |= keys[j] - pivot[0] < width;
    if (!any) return;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int p = 0; p < kPivots; ++p) {
        if (keys[j] < pivot[p] || keys[j] >= band.high) continue;
        ++v.count[p];
        mass[p] += __uint_as_float(keys[j]);
      }
    }
  });
#pragma unroll
  for (int p = 0; p < kPivots; ++p) v.mass[p] = mass_of(mass[p], slice.mass_scale);
  v = cluster_sum(v);
  const uint32_t base_count = band.high_count;
  const uint64_t base_mass = band.high_mass;
#pragma unroll
  for (int p = 0; p < kPivots; ++p) {
    const uint64_t through_mass = base_mass + v.mass[p];
    const uint32_t through_count = base_count + v.count[p];
    if (target.reached(through_mass, through_count)) {
      band.low = pivot[p];
      band.low_mass = through_mass;
      band.low_count = through_count;
    } else if (pivot[p] < band.high) {
      band.high = pivot[p];
      band.high_mass = through_mass;
      band.high_count = through_count;
    }
  }
}

// Narrows the band until its tokens, or all at or above its lower end, fit the list (then nothing is above it), or
// until a single key is left that more tokens have. `whole`: nothing above it is wanted in any case.
template <typename Slice>
__device__ __forceinline__ void narrow(const Slice& slice, Band& band, const Target& target, uint32_t top, bool whole) {
  while (band.high - band.low > 1) {
    if (band.low_count <= kListMax) break;
    if (!whole && band.low_count - band.high_count <= kListMax) return;
    // Where the target would be reached if the keys' worth were spread evenly: a narrow part there, and half the rest.
    const uint64_t through = target.by_mass ? band.low_mass : band.low_count;
    const uint64_t before = target.by_mass ? band.high_mass : band.high_count;
    const auto worth = static_cast<float>(max(through - before, uint64_t{1}));
    const float rest = static_cast<float>(through - target.value) / worth;
    const uint32_t width = band.high - band.low;
    const uint32_t at = band.low + min(static_cast<uint32_t>(rest * static_cast<float>(width)), width - 1);
    const uint32_t first = band.low + 1;
    const uint32_t last = band.high - 1;
    const uint32_t step = width / 32 + 1;
    const uint32_t a = at - first < width && at - first > step ? at - step : first;
    const uint32_t b = last - at < width && last - at > step ? at + step : last;
    const bool below = a - band.low > band.high - b;
    const uint32_t half = below ? band.low + (a - band.low + 1) / 2 : b + (band.high - b) / 2;
    const uint32_t middle = min(max(half, first), last);
    const uint32_t pivot[kPivots] = {below ? middle : a, below ? a : b, below ? b : middle};
    split(slice, band, target, pivot);
  }
  if (band.low_count > kListMax) return;
  band.high = top;
  band.high_count = 0;
  band.high_mass = 0;
}

}  // namespace skein::cuda
