#pragma once

#include <cstdint>

#include "kernels/ops.h"

// Addresses in [block][kv_head][K or V][token][dim].

namespace skein {
namespace {

inline int64_t element_bytes(Format format) { return format == Format::kF32 ? 4 : 2; }

struct PageAddress {
  int64_t block = 0;
  int64_t token = 0;  // in the block
};

inline PageAddress page_address(const KvPages& pages, int32_t slot, int64_t position) {
  const int64_t index = position / pages.block_tokens;
  const int64_t block = pages.block_table[slot * int64_t{pages.blocks_per_slot} + index];
  return {block, position - index * pages.block_tokens};
}

// The head_dim elements of one token. kv: 0 for K, 1 for V.
inline void* page_row(const KvPages& pages, const PageAddress& at, int64_t head, int kv) {
  const int64_t plane = (at.block * pages.kv_heads + head) * 2 + kv;
  const int64_t element = (plane * pages.block_tokens + at.token) * pages.head_dim;
  return static_cast<uint8_t*>(pages.data) + element * element_bytes(pages.format);
}

}  // namespace
}  // namespace skein
