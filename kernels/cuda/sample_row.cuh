#pragma once

#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx.cuh"

// The arguments of the launch of sample(), and which of its two ways a row takes.

namespace skein::cuda {

inline constexpr int kClusterBlocks = 8;
inline constexpr int kSampleThreads = 512;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr int kSampleRowsAtOnce = 256;  // at most kSampleThreads

struct SampleJob {
  SampledToken* out;
  int32_t* tokens;
  const float* logits;
  int64_t vocabulary;
  const SampleRow* row;
  SlotState state;
  const uint32_t* token_mask;  // or null
  int rows;
  const uint64_t* largest;  // keys of rows' largest logits (largest_key.cuh), or null
};

// Words of a SampledToken, which threads write side by side.
inline constexpr int kResultWords = sizeof(SampledToken) / 4;
static_assert(sizeof(SampledToken) == 4 * (4 + 2 * kTopLogprobsMax));

inline constexpr float kGreedyBelow = 1e-5f;
inline constexpr int32_t kInvalidLogits = -2;
inline constexpr float kLog2E = 1.4426950408889634f;

// Tokens up to the query's.
__device__ __forceinline__ int32_t known_tokens(const SampleRow& row) { return row.position + 1; }

__device__ __forceinline__ bool has_penalties(const SlotSampling& s) {
  return s.repetition_penalty != 1 || s.frequency_penalty != 0 || s.presence_penalty != 0;
}
__device__ __forceinline__ bool forbids_stops(const SlotSampling& s, int32_t known) {
  return known - s.prompt_tokens < s.min_tokens && s.stop_count > 0;
}
__device__ __forceinline__ bool changes_logits(const SlotSampling& s, int32_t known, const uint32_t* mask) {
  return has_penalties(s) || s.bias_count > 0 || forbids_stops(s, known) || mask != nullptr;
}
// Whether anything is said of the token that is sampled.
__device__ __forceinline__ bool reports(const SlotSampling& s) { return s.top_logprobs >= 0; }
// Whether tokens are drawn from the likeliest alone.
__device__ __forceinline__ bool truncates(const SlotSampling& s, int64_t vocabulary) {
  return s.top_p < 1 || s.min_p > 0 || (s.top_k > 0 && s.top_k < vocabulary);
}
// Whether a row needs more than the first of its highest logits, with noise or without. Padding does not.
__device__ __forceinline__ bool needs_choice(const SampleJob& job, const SampleRow& row) {
  if (row.slot < 0) return false;
  const SlotSampling& s = job.state.sampling[row.slot];
  return row.score != 0 || s.top_logprobs > 0 ||
         changes_logits(s, known_tokens(row), job.token_mask) ||
         (s.temperature >= kGreedyBelow && (reports(s) || truncates(s, job.vocabulary)));
}

// Read anew at each use: all that follows from it would otherwise stay in registers, of which there are too few.
__device__ __forceinline__ int thread_index() {
  const int index = read_thread_index();
  __builtin_assume(index >= 0 && index < kSampleThreads);
  return index;
}

// A block's shared memory: SampleShared, which begins with SearchShared, then the keys.
inline constexpr int kStateBytes = 12 << 10;
__device__ __forceinline__ unsigned char* block_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

}  // namespace skein::cuda
