#include "kernels/cuda/prefill_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "base/checked.h"
#include "tests/bench/gpu/bench.h"

// Attention of prompts and chunks of prompts over paged keys and values.

namespace skein::bench {
namespace {

struct Heads {
  int q_heads = 32;
  int kv_heads = 8;
  int head_dim = 128;
  int block_tokens = 64;
  int window = 0;
};
struct Row {
  int prefix;
  int queries;
};

// (query, key) pairs that are not masked.
double pairs(const Row& row, int window) {
  double sum = 0;
  for (int i = 0; i < row.queries; ++i) {
    const int keys = row.prefix + i + 1;
    sum += window > 0 ? std::min(keys, window) : keys;
  }
  return sum;
}

void measure(const std::string& name, const Heads& heads, const std::vector<Row>& rows) {
  std::vector<int32_t> query_begin = {0}, positions, slots, table;
  int blocks_per_slot = 0;
  double attended = 0;
  int64_t keys = 0;
  for (const Row& row : rows) {
    blocks_per_slot = std::max(blocks_per_slot, ceil_div(row.prefix + row.queries, heads.block_tokens));
    for (int i = 0; i < row.queries; ++i) positions.push_back(row.prefix + i);
    query_begin.push_back(static_cast<int32_t>(positions.size()));
    slots.push_back(static_cast<int32_t>(slots.size()));
    attended += pairs(row, heads.window);
    keys += row.prefix + row.queries;
  }
  const int blocks = blocks_per_slot * static_cast<int>(rows.size());
  table.resize(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  const auto tokens = static_cast<int>(positions.size());
  const int64_t columns = int64_t{heads.q_heads} * heads.head_dim;
  const int64_t qkv_columns = columns + 2 * int64_t{heads.kv_heads} * heads.head_dim;
  const int64_t kv_elements = int64_t{blocks} * heads.kv_heads * 2 * heads.block_tokens * heads.head_dim;
  AttentionArgs args{
      .out = {.data = device_memory(tokens * columns * 2), .rows = tokens, .columns = columns,
              .format = Format::kBF16, .row_stride = columns},
      .q = {.data = random_bf16(tokens * qkv_columns), .rows = tokens, .columns = columns, .format = Format::kBF16,
            .row_stride = qkv_columns},
      .step = {.rows = static_cast<int>(rows.size()), .tokens = tokens, .query_begin_host = query_begin.data(),
               .positions = upload(positions), .query_begin = upload(query_begin), .slots = upload(slots)},
      .pages = {.data = random_bf16(kv_elements), .format = Format::kBF16, .blocks = blocks,
                .kv_heads = heads.kv_heads, .block_tokens = heads.block_tokens, .head_dim = heads.head_dim,
                .block_table = upload(table), .blocks_per_slot = blocks_per_slot},
      .q_heads = heads.q_heads, .group_size = heads.q_heads / heads.kv_heads,
      .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(heads.head_dim))), .window = heads.window};
  const double flops = 4.0 * heads.q_heads * heads.head_dim * attended;
  const int calls = std::clamp(static_cast<int>(6e12 / flops), 3, 20);
  const double us = time_us([&](int) { cuda::prefill_attention(gpu(), args, 0); }, calls, 7);
  const double bytes = 2.0 * (2 * static_cast<double>(tokens * columns) +
                              2.0 * static_cast<double>(keys) * heads.kv_heads * heads.head_dim);
  report({.name = "prefill " + name, .us = us, .bytes = bytes, .flops = flops});
}

std::vector<Row> prompts(int count, int tokens) { return std::vector<Row>(static_cast<size_t>(count), {0, tokens}); }

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) {
  using namespace skein::bench;
  if (const int status = open_bench(argc, argv)) return status;
  const Heads llama;
  for (const int tokens : {128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}) {
    measure("32/8x128 b1 n" + std::to_string(tokens), llama, prompts(1, tokens));
  }
  for (const int tokens : {1024, 2048, 4096}) {
    measure("32/8x128 b4 n" + std::to_string(tokens), llama, prompts(4, tokens));
  }
  measure("32/8x128 b16 n512", llama, prompts(16, 512));
  std::vector<Row> mixed;
  for (const int tokens : {3000, 1700, 900, 640, 420, 300, 250, 200, 150, 120, 90, 60, 40, 25, 12, 5}) {
    mixed.push_back({0, tokens});
  }
  measure("32/8x128 mixed lengths, 7912 tokens", llama, mixed);
  measure("32/8x128 2048 after 30720", llama, {{30720, 2048}});
  measure("32/8x128 512 after 8192", llama, {{8192, 512}});
  measure("32/8x128 64 after 100000", llama, {{100000, 64}});
  measure("32/8x128 16 x (16 after 4000)", llama, std::vector<Row>(16, {4000, 16}));
  measure("32/8x128 b1 n8192, blocks of 16", {.block_tokens = 16}, prompts(1, 8192));
  measure("32/8x128 b1 n8192, window 1024", {.window = 1024}, prompts(1, 8192));
  measure("64/8x128 b1 n8192", {.q_heads = 64}, prompts(1, 8192));
  measure("32/32x128 b1 n8192", {.kv_heads = 32}, prompts(1, 8192));
  measure("32/8x64 b1 n8192", {.head_dim = 64}, prompts(1, 8192));
  measure("32/8x64 b4 n2048", {.head_dim = 64}, prompts(4, 2048));
  return 0;
}
