#pragma once

#include "kernels/cuda/sample_list.cuh"
#include "kernels/cuda/sample_logits.cuh"

// Rows that are not simply greedy, a cluster of blocks a row. Each block holds its part of the row as keys, and
// everything is a search over them (sample_search.cuh). Weights are what the CPU computes, bit for bit, so that both
// choose the same token but where their sums round differently.

namespace skein::cuda {

// What is known of all weights after the first pass: counts and masses at or above a few pivots, `floor` the lowest.
struct FirstPass {
  uint32_t pivot[kCountsMax];
  Sums sums;  // mass[4]: of the raw logits
};

struct ChooseShared {
  FirstPass first;
  Stages stages;
  Row row;
  float log_sum;  // of e^(raw logit - max)
  int next;       // of the rows' list, the cluster's next one
  Bias bias;
  SampledToken result;
};

// The raw logits, as bits, into the slice. Returns the order of the highest of the whole row, kBroken if they are of no
// use.
template <typename Slice>
__device__ uint32_t load_row(const Slice& slice, const Row& row) {
  load_raw(slice, row);
  uint32_t highest = 0;
  each_four(slice, [&](int i) {
    highest = max(highest, highest_of(*reinterpret_cast<const float4*>(slice.keys() + i)));
  });
  return checked_highest(cluster_max(highest));
}

// This thread's part of the sum of e^(logit - max) over the raw logits, which are in the slice.
template <typename Slice>
__device__ float sum_raw(const Slice& slice, float max) {
  float sum = 0;
  each_four(slice, [&](int i) {
    const float4 x = *reinterpret_cast<const float4*>(slice.keys() + i);
    sum += exp2_fast((x.x - max) * kLog2E) + exp2_fast((x.y - max) * kLog2E) +
           (exp2_fast((x.z - max) * kLog2E) + exp2_fast((x.w - max) * kLog2E));
  });
  return sum;
}

// Turns the final logits in the slice into weights, and measures them and the raw sum: into shared.first.
template <typename Slice>
__device__ void make_weights(const Slice& slice, const SlotSampling& s, float highest, float raw_sum,
                             ChooseShared& shared) {
  const float factor = __fdiv_rn(1.0f, s.temperature);
  const uint32_t floor = max(__float_as_uint(fmaxf(fminf(s.min_p, 1.0f), 0.0f)), 1u);
  FirstPass first = {{floor, max(floor, kWeightOne - 11 * kOctave), max(floor, kWeightOne - 6 * kOctave),
                      max(floor, kWeightOne - 3 * kOctave)},
                     {}};
  float mass[kCountsMax] = {};
  each_four<1>(slice, [&](int i) {  // beyond the vocabulary's end the logits are -infinity, and the weights 0
    const float4 x = *reinterpret_cast<const float4*>(slice.keys() + i);
    const float weight[4] = {exp_as_cpu(__fmul_rn(__fsub_rn(x.x, highest), factor)),
                             exp_as_cpu(__fmul_rn(__fsub_rn(x.y, highest), factor)),
                             exp_as_cpu(__fmul_rn(__fsub_rn(x.z, highest), factor)),
                             exp_as_cpu(__fmul_rn(__fsub_rn(x.w, highest), factor))};
    *reinterpret_cast<float4*>(slice.keys() + i) = make_float4(weight[0], weight[1], weight[2], weight[3]);
    const auto add = [&](int p) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (__float_as_uint(weight[j]) < first.pivot[p]) continue;
        mass[p] += weight[j];
        ++first.sums.count[p];
      }
    };
    add(0);
    if (__float_as_uint(fmaxf(fmaxf(weight[0], weight[1]), fmaxf(weight[2], weight[3]))) < first.pivot[1]) return;
#pragma unroll
    for (int p = 1; p < kCountsMax; ++p) add(p);
  });
#pragma unroll
  for (int p = 0; p < kCountsMax; ++p) first.sums.mass[p] = mass_of(mass[p], slice.mass_scale);
  first.sums.mass[kCountsMax] = mass_of(raw_sum, slice.mass_scale);
  const Sums& sums = cluster_sum(first.sums);
  if (thread_index() == 0) {
    first.sums = sums;
    shared.first = first;
  }
  __syncthreads();
}

// The part of the band that the first pass leaves.
__device__ void cut(Band& band, const FirstPass& first, const Target& target) {
#pragma unroll
  for (int p = 0; p < kCountsMax; ++p) {
    const uint32_t pivot = first.pivot[p];
    if (pivot <= band.low || pivot >= band.high) continue;
    if (target.reached(first.sums.mass[p], first.sums.count[p])) {
      band.low = pivot;
      band.low_mass = first.sums.mass[p];
      band.low_count = first.sums.count[p];
    } else {
      band.high = pivot;
      band.high_mass = first.sums.mass[p];
      band.high_count = first.sums.count[p];
    }
  }
}

// From what min-p, then top-k, then top-p leave, likeliest first.
template <typename Slice>
__device__ int32_t draw_from_likeliest(const Slice& slice, const SlotSampling& s, double uniform,
                                       ChooseShared& shared) {
  const FirstPass& first = shared.first;
  if (thread_index() == 0) {
    shared.stages = {.n = slice.n, .available = first.sums.count[0], .top_k = s.top_k, .top_p = s.top_p,
                     .uniform = uniform};
  }
  __syncthreads();
  const Stages& stages = shared.stages;
  Band floor = {.low = first.pivot[0], .high = kWeightOne + 1, .low_count = first.sums.count[0], .high_count = 0,
                .low_mass = first.sums.mass[0], .high_mass = 0};
  Progress progress = {.mass = first.sums.mass[0], .token = -1, .stage = 0};
#pragma unroll 1
  while (progress.stage < kStages) {
    Target target;
    if (!stages.target(progress.stage, progress.mass, &target)) {
      ++progress.stage;
      continue;
    }
    Band band = floor;
    cut(band, first, target);
    narrow(slice, band, target, kWeightOne + 1, false);
    if (band.low_count - band.high_count <= kListMax) {
      list_band(slice, band.low, band.high, INT32_MAX);
      if (cluster_rank() == 0) resolve(slice, sort_list(), band, stages, progress);
      progress = share(progress);
    } else {
      // Many tokens with one weight.
      const uint64_t each = max(mass_of(band.low, slice.mass_scale), uint64_t{1});
      const uint64_t wanted = target.by_mass ? (target.value - band.high_mass + each - 1) / each
                                             : target.value - band.high_count;
      const uint64_t nth = min(max(wanted, uint64_t{1}), uint64_t{band.low_count - band.high_count});
      progress = {.mass = band.high_mass + nth * each,
                  .token = locate_nth(slice, band.low, band.high, nth).token,
                  .stage = progress.stage + 1};
    }
    // Later targets are reached within what this one kept.
    floor.low = band.low;
    floor.low_count = band.low_count;
    floor.low_mass = band.low_mass;
  }
  return progress.token;
}

// Turns logits in the slice into keys of the same order.
template <typename Slice>
__device__ __forceinline__ void order_keys(const Slice& slice) {
  each_four(slice, [&](int i) {
    const float4 x = *reinterpret_cast<const float4*>(slice.keys() + i);
    store_four(slice, i, make_uint4(order_of(x.x), order_of(x.y), order_of(x.z), order_of(x.w)));
  });
}

// The same with noise. Returns the highest of the whole row.
template <typename Slice>
__device__ __forceinline__ uint32_t order_noisy_keys(const Slice& slice, const Draw& draw) {
  uint32_t highest = 0;
  each_four<1>(slice, [&](int i) {
    const float4 x = with_noise(draw, slice.first + i, *reinterpret_cast<const float4*>(slice.keys() + i));
    const uint4 orders = make_uint4(order_of(x.x), order_of(x.y), order_of(x.z), order_of(x.w));
    highest = max(max(highest, max(orders.x, orders.y)), max(orders.z, orders.w));
    store_four(slice, i, orders);
  });
  return cluster_max(highest);
}

// Into shared.log_sum, from the sum over the raw logits.
template <typename Slice>
__device__ __forceinline__ void keep_log(const Slice& slice, uint64_t mass, ChooseShared& shared) {
  if (thread_index() == 0) shared.log_sum = logf(static_cast<float>(mass) / slice.mass_scale);
}

// By all blocks of the cluster, the raw logits being in the slice.
template <typename Slice>
__device__ int32_t choose_token(const Slice& slice, const Row& row, ChooseShared& shared) {
  const SlotSampling& s = *row.sampling;
  const bool likeliest = s.temperature >= kGreedyBelow && truncates(s, slice.n);
  const bool same = likeliest && !row.changed && s.temperature == 1 && s.min_p <= 0;  // raw sum and mass
  const float raw_sum = same || !row.told ? 0 : sum_raw(slice, row.raw_max);
  uint32_t highest = order_of(row.raw_max);
  if (row.changed) {
    highest = change_logits(slice, row, shared.bias);
    if (highest == kBroken) return kInvalidLogits;
  }
  if (!likeliest) {
    if (s.temperature >= kGreedyBelow) {
      highest = order_noisy_keys(slice, draw_of(s, row.known));
    } else {
      order_keys(slice);
    }
    keep_log(slice, cluster_sum(mass_of(raw_sum, slice.mass_scale)), shared);
    return locate_nth(slice, highest, highest + 1, 1).token;
  }
  make_weights(slice, s, value_of(highest), raw_sum, shared);
  keep_log(slice, shared.first.sums.mass[same ? 0 : kCountsMax], shared);
  const double uniform = philox_uniform(s.seed, static_cast<uint32_t>(row.known - s.prompt_tokens));
  return draw_from_likeliest(slice, s, uniform, shared);
}

// The likeliest `wanted` raw logits, into block 0's result.
template <typename Slice>
__device__ void report_top(const Slice& slice, const Row& row, ChooseShared& shared, int wanted) {
  load_raw(slice, row);
  order_keys(slice);
  const uint32_t top = order_of(row.raw_max) + 1;
  const Target target = {.by_mass = false, .value = static_cast<uint64_t>(wanted)};
  Band band = {.low = kForbiddenOrder, .high = top, .low_count = static_cast<uint32_t>(slice.n), .high_count = 0,
               .low_mass = 0, .high_mass = 0};
  const uint32_t pivot[kPivots] = {order_of(row.raw_max - 9), order_of(row.raw_max - 5), order_of(row.raw_max - 2)};
  split(slice, band, target, pivot);
  narrow(slice, band, target, top, true);
  int32_t last = INT32_MAX;
  if (band.low_count > kListMax) {  // many tokens with one logit: the first of them
    last = locate_nth(slice, band.low, band.high, target.value - band.high_count).token;
  }
  list_band(slice, band.low, top, last);
  if (cluster_rank() != 0) return;
  const Found mine = sort_list().found;
  if (thread_index() >= wanted) return;
  shared.result.top_tokens[thread_index()] = mine.token;
  shared.result.top_logprobs[thread_index()] = value_of(mine.key) - row.raw_max - shared.log_sum;
}

enum class Keys { kRaw, kWeights, kOther };  // what the slice holds

// How many raw logits are at least `logit`, whose token has that weight.
template <typename Slice>
__device__ int32_t rank_of(const Slice& slice, const Row& row, float logit, Keys keys, uint32_t weight) {
  uint32_t own = 0;
  const auto count = [&](const float4& x) {
    own += (x.x >= logit) + (x.y >= logit) + (x.z >= logit) + (x.w >= logit);
  };
  if (keys == Keys::kOther) {
    each_four<4>(slice, [&](int i) { count(raw_four(slice, row, i, NAN)); });
  } else if (keys == Keys::kRaw) {
    each_four(slice, [&](int i) {
      const float4 x = *reinterpret_cast<const float4*>(slice.keys() + i);
      const int left = slice.n - slice.first - i;
      count({left > 0 ? x.x : NAN, left > 1 ? x.y : NAN, left > 2 ? x.z : NAN, left > 3 ? x.w : NAN});
    });
  } else {
    // Weights rise with the logits, but several logits may have one weight.
    each_four(slice, [&](int i) {
      const uint4 four = *reinterpret_cast<const uint4*>(slice.keys() + i);
      own += (four.x > weight) + (four.y > weight) + (four.z > weight) + (four.w > weight);
      if (four.x != weight && four.y != weight && four.z != weight && four.w != weight) return;
      for (int j = 0; j < 4; ++j) {
        own += slice.keys()[i + j] == weight && __ldcg(row.logits + slice.first + i + j) >= logit;
      }
    });
  }
  return static_cast<int32_t>(cluster_sum(own));
}

// Into shared memory, by one thread.
__device__ void describe_row(const SampleJob& job, int r, Row& row) {
  const SampleRow request = job.row[r];
  const float* logits = job.logits + r * job.vocabulary;
  const SlotSampling* sampling = job.state.sampling + request.slot;
  const int32_t known = known_tokens(request);
  const uint32_t* mask = job.token_mask == nullptr ? nullptr : job.token_mask + r * ((job.vocabulary + 31) / 32);
  row = {.index = r,
         .score = request.score != 0,
         .changed = request.score == 0 && changes_logits(*sampling, known, mask),
         .told = request.score != 0 || reports(*sampling),
         .logits = logits,
         .aligned = reinterpret_cast<uintptr_t>(logits) % 16 == 0,
         .sampling = sampling,
         .tokens = job.state.tokens + int64_t{request.slot} * job.state.tokens_max,
         .known = known,
         .mask = mask,
         .raw_max = 0};
}

// The token that follows the query's.
template <typename Slice>
__device__ int32_t scored_token(const Slice& slice, const Row& row, int tokens_max, ChooseShared& shared) {
  int32_t token = row.known < tokens_max ? row.tokens[row.known] : -1;
  if (token < 0 || token >= slice.n) token = kInvalidLogits;
  keep_log(slice, cluster_sum(mass_of(sum_raw(slice, row.raw_max), slice.mass_scale)), shared);
  return token;
}

// Everything that is told about a token, into block 0's result.
template <typename Slice>
__device__ void report(const Slice& slice, int32_t token, ChooseShared& shared) {
  const Row& row = shared.row;
  const float logit = row.logits[token];
  const float temperature = row.sampling->temperature;
  const bool drawn = !row.score && !row.changed && temperature >= kGreedyBelow && truncates(*row.sampling, slice.n);
  const Keys keys = row.score ? Keys::kRaw : drawn ? Keys::kWeights : Keys::kOther;
  const float weight = exp_as_cpu(__fmul_rn(__fsub_rn(logit, row.raw_max), __fdiv_rn(1.0f, temperature)));
  const int32_t rank = rank_of(slice, row, logit, keys, __float_as_uint(weight));
  const int wanted = min(min(row.sampling->top_logprobs, kTopLogprobsMax), slice.n);
  if (thread_index() == 0) {
    shared.result.logprob = logit - row.raw_max - shared.log_sum;
    shared.result.rank = rank;
    shared.result.top_count = max(wanted, 0);
  }
  if (wanted > 0) report_top(slice, row, shared, wanted);
}

// The cluster's next row of `rows`.
template <typename Slice>
__device__ void work_on_row(const Slice& slice, const SampleJob& job, const uint16_t* rows, ChooseShared& shared) {
  const Row& row = shared.row;
  __syncthreads();
  if (thread_index() == 0) {
    describe_row(job, rows[shared.next], shared.row);
    shared.next += static_cast<int>(gridDim.x / kClusterBlocks);
  }
  if (thread_index() < kResultWords) reinterpret_cast<int32_t*>(&shared.result)[thread_index()] = 0;
  __syncthreads();
  const uint32_t highest = load_row(slice, row);
  if (thread_index() == 0) shared.row.raw_max = value_of(highest);
  __syncthreads();

  int32_t token = kInvalidLogits;
  if (highest != kBroken) {
    token = row.score ? scored_token(slice, row, job.state.tokens_max, shared)
                      : choose_token(slice, row, shared);
  }
  if (cluster_rank() == 0 && thread_index() == 0) {
    shared.result.token = token;
    job.tokens[row.index] = row.score ? -1 : token;
  }
  if (token >= 0 && row.told) report(slice, token, shared);
  if (cluster_rank() != 0) return;
  __syncthreads();
  if (thread_index() < kResultWords) {
    reinterpret_cast<int32_t*>(job.out + row.index)[thread_index()] =
        reinterpret_cast<int32_t*>(&shared.result)[thread_index()];
  }
}

}  // namespace skein::cuda
