#pragma once

#include <cstdint>

#include "kernels/cpu/attention_scratch.h"
#include "kernels/ops.h"

// What is compiled once per instruction set. Each function does its share of a launch, on one thread;
// results don't depend on how a launch is cut into shares. Arguments were checked by the launcher.

namespace skein {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// The part of an attention launch that shares one pass over the keys: some queries of one row, some heads.
struct AttentionUnit {
  int row = 0;
  Range queries;  // tokens of the step
  Range heads;    // local q heads
};

struct RowMaximum {
  float value = 0;
  bool valid = false;  // no NaN, no +infinity, at least one finite value
};

struct IsaKernels {
  const char* name;
  void (*linear)(const LinearArgs&, Range panels, Range tokens);
  void (*embed)(const EmbedArgs&, Range tokens);
  void (*add_norm)(const AddNormArgs&, Range tokens);
  void (*rope_append)(const RopeAppendArgs&, Range tokens);
  void (*attention)(const AttentionArgs&, const AttentionUnit&, AttentionScratch*);
  void (*silu_mul)(const SiluMulArgs&, Range tokens);

  // Over x[0, n), sums in a fixed order. find_not_less: the first index >= begin whose value is >= bound,
  // or n. exp_sum: of e^(x - max). exp_row: out = e^((x - max) factor).
  RowMaximum (*maximum)(const float* x, int64_t n);
  double (*exp_sum)(const float* x, int64_t n, float max);
  double (*sum)(const float* x, int64_t n);
  int64_t (*count_not_less)(const float* x, int64_t n, float bound);
  int64_t (*find_not_less)(const float* x, int64_t begin, int64_t n, float bound);
  void (*exp_row)(float* out, const float* x, int64_t n, float max, float factor);
  // A token by the distribution softmax(x factor), the same for the same seed and index. Some x are above -infinity,
  // none is NaN or +infinity.
  int32_t (*draw)(const float* x, int64_t n, float factor, uint64_t seed, uint32_t index);
};

const IsaKernels& avx2_kernels();
const IsaKernels& avx512_kernels();
const IsaKernels& vnni_kernels();

}  // namespace skein
