#pragma once

#include <algorithm>
#include <cmath>

#include "tests/gpu/fixture.h"

// Sequences in a paged cache, steps over them, and attention in float64.

namespace skein::test {

struct AttentionShape {
  int head_dim = 128;
  int kv_heads = 2;
  int q_heads = 8;
  int group_size = 4;
  int group_offset = 0;
  int block_tokens = 64;
  int window = 0;
};

// One row of a step: queries at the positions [first, first + count) of the sequence; slot -1: padding.
struct Queries {
  int slot = 0;
  int first = 0;
  int count = 1;
};

// The keys and values of sequences of given lengths, over permuted pages. Tokens and pages that no sequence has are
// NaN, unused table entries lead nowhere.
class PagedCache {
 public:
  PagedCache(const AttentionShape& shape, std::vector<int> lengths, uint32_t seed);

  KvPages pages();
  // `written[slot]`: the tokens from there on are poison, too.
  void upload(const std::vector<int>& written);
  void upload() { upload(lengths_); }
  const float* row(int slot, int position, int head, int kv) const;
  float* row(int slot, int position, int head, int kv) {
    return const_cast<float*>(static_cast<const PagedCache*>(this)->row(slot, position, head, kv));
  }
  // As the device has it now.
  std::vector<uint16_t> pool();
  int64_t pool_element(int slot, int position, int head, int kv) const;
  const std::vector<int>& lengths() const { return lengths_; }

 private:
  AttentionShape shape_;
  std::vector<int> lengths_;
  int blocks_ = 0;
  int blocks_per_slot_ = 0;
  std::vector<int32_t> table_;
  std::vector<std::vector<float>> values_;  // [slot]: (position, head, K or V, dim)
  GpuMemory pool_memory_;
  GpuMemory table_memory_;
};

// A step on the device.
struct DeviceStep {
  DeviceStep(const std::vector<Queries>& rows, int decode_rows);
  StepView view() const;
  int tokens() const { return static_cast<int>(positions.size()); }

  std::vector<Queries> rows;
  int decode_rows;
  std::vector<int32_t> positions, query_begin, slots;
  GpuMemory positions_memory, query_begin_memory, slots_memory;
};

// (tokens, q_heads * head_dim) from q of that shape.
std::vector<double> attend_in_double(const AttentionShape& shape, const PagedCache& cache, const DeviceStep& step,
                                     const std::vector<float>& q, double scale,
                                     const std::vector<uint64_t>* tree = nullptr);

// What rope_append is to do, in place in q and in the cache's values (rounded to bf16).
struct Rotation {
  int rotary_dim = 0;
  std::vector<float> cos_sin, q_norm, k_norm;
  double epsilon = 1e-5;
};
Rotation make_rotation(const AttentionShape& shape, int rotary_dim, int positions, bool norms, uint32_t seed);
void append_in_double(const AttentionShape& shape, const Rotation& rotation, const DeviceStep& step,
                      const std::vector<float>& qkv, PagedCache& cache, std::vector<float>& q);

// The largest relative error of any token's head; prints where it is if it is above `limit`.
double worst_head_error(const std::vector<uint16_t>& out, const std::vector<double>& expected, int head_dim,
                        int heads, double limit);

}  // namespace skein::test
