#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "tests/bench/gpu/bench.h"

// Decode attention with rotation and append in the launch, the plain kernel of other head sizes with both before it,
// and rope_append alone. Every call of a graph has its own pages where they would stay in the L2 cache otherwise.

namespace skein::bench {
namespace {

constexpr int kBlockTokens = 64;

struct Heads {
  int q = 32;
  int kv = 8;
  int dim = 128;
};

struct Rows {
  std::vector<int> lengths;
  std::string name;  // "b64 c8192"
};

Rows equal_rows(int batch, int context) {
  return {std::vector<int>(static_cast<size_t>(batch), context),
          "b" + std::to_string(batch) + " c" + std::to_string(context)};
}

std::string name_of(const Heads& heads) {
  return std::to_string(heads.q) + "/" + std::to_string(heads.kv) + "x" + std::to_string(heads.dim);
}

// What all measurements share: random numbers for pages and activations, and a rotation table.
struct Memory {
  static constexpr int64_t kRandomBytes = int64_t{9} << 29;
  static constexpr int64_t kActivationBytes = int64_t{1} << 29;
  static constexpr int kPositions = 131072;
  uint8_t* pages = static_cast<uint8_t*>(random_bf16(kRandomBytes / 2));
  uint8_t* activations = static_cast<uint8_t*>(random_bf16(kActivationBytes / 2, 1, 2));
  void* out = device_memory(int64_t{1} << 24);
  const float* cos_sin = upload(std::vector<float>(size_t{kPositions} * 128, 0.7f));
};

void decode(const Memory& memory, const Heads& heads, const Rows& rows, const std::string& what = "decode") {
  const int batch = static_cast<int>(rows.lengths.size());
  int64_t tokens = 0;
  int64_t blocks = 0;
  int blocks_per_slot = 0;
  std::vector<int32_t> positions, query_begin = {0}, slots;
  for (int row = 0; row < batch; ++row) {
    const int length = rows.lengths[static_cast<size_t>(row)];
    const int row_blocks = (length + kBlockTokens - 1) / kBlockTokens;
    tokens += length;
    blocks += row_blocks;
    blocks_per_slot = std::max(blocks_per_slot, row_blocks);
    positions.push_back(length - 1);
    slots.push_back(row);
    query_begin.push_back(row + 1);
  }
  const int64_t token_bytes = int64_t{heads.kv} * 2 * heads.dim * 2;
  const int64_t pool_bytes = blocks * kBlockTokens * token_bytes;
  const int copies = rotations(pool_bytes);
  CHECK_LE(pool_bytes * copies, Memory::kRandomBytes);
  // Blocks are dealt out row by row in a fixed permutation.
  std::vector<int32_t> table(static_cast<size_t>(batch) * static_cast<size_t>(blocks_per_slot), 0);
  int64_t next = 0;
  int64_t step = blocks / 2 + 1;
  while (std::gcd(step, blocks) != 1) ++step;
  for (int row = 0; row < batch; ++row) {
    for (int i = 0; i * kBlockTokens < rows.lengths[static_cast<size_t>(row)]; ++i) {
      table[static_cast<size_t>(row) * static_cast<size_t>(blocks_per_slot) + static_cast<size_t>(i)] =
          static_cast<int32_t>(next++ * step % blocks);
    }
  }
  const int64_t columns = int64_t{heads.q + 2 * heads.kv} * heads.dim;
  const int64_t out_columns = int64_t{heads.q} * heads.dim;
  const auto* table_memory = upload(table);
  const StepView view = {.rows = batch, .tokens = batch, .decode_rows = batch, .query_begin_host = query_begin.data(),
                         .positions = upload(positions), .query_begin = upload(query_begin), .slots = upload(slots)};
  const auto body = [&](int i) {
    const KvPages pages = {.data = memory.pages + i % copies * pool_bytes, .format = Format::kBF16,
                           .blocks = static_cast<int>(blocks), .kv_heads = heads.kv, .block_tokens = kBlockTokens,
                           .head_dim = heads.dim, .block_table = table_memory,
                           .blocks_per_slot = blocks_per_slot};
    const RopeAppendArgs append = {
        .qkv = {.data = memory.activations, .rows = batch, .columns = columns, .format = Format::kBF16,
                .row_stride = columns},
        .step = view, .pages = pages, .q_heads = heads.q, .cos_sin = memory.cos_sin, .rotary_dim = heads.dim};
    cuda::attention(gpu(), {.out = {.data = memory.out, .rows = batch, .columns = out_columns,
                                    .format = Format::kBF16, .row_stride = out_columns},
                            .q = append.qkv, .step = view, .pages = pages, .q_heads = heads.q,
                            .group_size = heads.q / heads.kv, .scale = 0.088f, .append = &append});
  };
  const int calls = std::max(2, std::min(20, copies * 2));
  report({.name = what + " " + name_of(heads) + " " + rows.name, .us = time_us(body, calls),
          .bytes = static_cast<double>(tokens * token_bytes + batch * (columns + out_columns) * 2)});
}

void rope(const Memory& memory, const Heads& heads, int tokens) {
  const int64_t columns = int64_t{heads.q + 2 * heads.kv} * heads.dim;
  const int blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  const int64_t pool_bytes = int64_t{blocks} * kBlockTokens * heads.kv * 2 * heads.dim * 2;
  const int copies = rotations(tokens * columns * 2 + pool_bytes);
  CHECK_LE(tokens * columns * 2 * copies, Memory::kActivationBytes);
  std::vector<int32_t> positions, table;
  for (int i = 0; i < tokens; ++i) positions.push_back(i);
  for (int i = 0; i < blocks; ++i) table.push_back(blocks - 1 - i);
  const std::vector<int32_t> begins = {0, tokens};
  const auto* positions_memory = upload(positions);
  const auto* table_memory = upload(table);
  const auto* begin_memory = upload(begins);
  const auto* slot_memory = upload(std::vector<int32_t>{0});
  const StepView view = {.rows = 1, .tokens = tokens, .decode_rows = 0, .query_begin_host = begins.data(),
                         .positions = positions_memory, .query_begin = begin_memory, .slots = slot_memory};
  const auto body = [&](int i) {
    cuda::rope_append(gpu(), {.qkv = {.data = memory.activations + i % copies * tokens * columns * 2, .rows = tokens,
                                      .columns = columns, .format = Format::kBF16, .row_stride = columns},
                              .step = view,
                              .pages = {.data = memory.pages + i % copies * pool_bytes, .format = Format::kBF16,
                                        .blocks = blocks, .kv_heads = heads.kv, .block_tokens = kBlockTokens,
                                        .head_dim = heads.dim, .block_table = table_memory, .blocks_per_slot = blocks},
                              .q_heads = heads.q, .cos_sin = memory.cos_sin, .rotary_dim = heads.dim});
  };
  report({.name = "rope_append " + name_of(heads) + " " + std::to_string(tokens) + " tokens", .us = time_us(body),
          .bytes = 2.0 * static_cast<double>(tokens * columns * 2) + static_cast<double>(tokens * heads.dim * 4)});
}

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) {
  using namespace skein::bench;
  if (const int status = open_bench(argc, argv)) return status;
  const Memory memory;
  const Heads whole;
  const Heads half = {.q = 16, .kv = 4};
  constexpr int64_t kTokensMax = 1 << 20;
  for (const int batch : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    for (const int context : {64, 512, 1024, 2048, 4096, 8192, 32768, 131072}) {
      if (int64_t{batch} * context > kTokensMax / 2) continue;
      decode(memory, whole, equal_rows(batch, context));
    }
  }
  for (const int batch : {1, 8, 64, 256}) {
    for (const int context : {1024, 8192, 32768}) {
      if (int64_t{batch} * context <= kTokensMax) decode(memory, half, equal_rows(batch, context));
    }
  }
  Rows uneven = {{}, "64 rows of 100 to 16K"};
  for (int i = 0; i < 64; ++i) uneven.lengths.push_back(100 + i * i * 4);
  decode(memory, whole, uneven);
  decode(memory, {.q = 32, .kv = 32}, equal_rows(16, 4096));
  decode(memory, {.q = 64, .kv = 4}, equal_rows(32, 8192));
  decode(memory, {.q = 32, .kv = 8, .dim = 64}, equal_rows(64, 8192));
  for (const int dim : {80, 96, 256}) {
    for (const int batch : {1, 64}) decode(memory, {.q = 32, .kv = 8, .dim = dim}, equal_rows(batch, 1024), "plain");
  }
  for (const int tokens : {1, 64, 1024, 8192}) rope(memory, whole, tokens);
  return 0;
}
