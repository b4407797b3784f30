#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "tests/unit/kernels/fixture.h"

namespace skein::test {
namespace {

struct Case {
  int head_dim = 64;
  int kv_heads = 3;
  int q_heads = 9;
  int group_size = 3;
  int group_offset = 0;
  int block_tokens = 16;
  int window = 0;
  Format pages = Format::kF32;
  Format out = Format::kF32;
};

double page_value(const void* data, Format format, int64_t element) {
  if (format == Format::kF32) return static_cast<const float*>(data)[element];
  const uint16_t bits = static_cast<const uint16_t*>(data)[element];
  return format == Format::kF16 ? half_to_double(bits) : bf16_to_double(bits);
}

void set_page_value(void* data, Format format, int64_t element, float value) {
  if (format == Format::kF32) {
    static_cast<float*>(data)[element] = value;
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  static_cast<uint16_t*>(data)[element] =
      format == Format::kF16 ? double_to_half(value) : static_cast<uint16_t>(bits >> 16);
}

// The keys and values of some sequences, scattered over a pool of pages; what isn't theirs is NaN, and
// table entries that aren't used are -1.
struct Cache {
  Cache(const Case& c, const std::vector<int>& lengths, uint32_t seed)
      : shape(c), blocks_per_slot(*std::max_element(lengths.begin(), lengths.end()) / c.block_tokens + 3),
        blocks(static_cast<int>(lengths.size()) * blocks_per_slot),
        memory(int64_t{blocks} * c.kv_heads * 2 * c.block_tokens * c.head_dim * info(c.pages).block_bytes),
        table(lengths.size() * static_cast<size_t>(blocks_per_slot), -1) {
    Random random(seed);
    std::vector<int32_t> order(static_cast<size_t>(blocks));
    for (int i = 0; i < blocks; ++i) order[static_cast<size_t>(i)] = i;
    for (int i = blocks - 1; i > 0; --i) {
      std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(random.below(0, i + 1))]);
    }
    size_t next = 0;
    for (size_t slot = 0; slot < lengths.size(); ++slot) {
      Random values(1000 + static_cast<uint32_t>(slot));  // whatever the pages
      for (int p = 0; p < lengths[slot]; ++p) {
        int32_t& block = table[slot * static_cast<size_t>(blocks_per_slot) + static_cast<size_t>(p / c.block_tokens)];
        if (block < 0) block = order[next++];
        for (int kv = 0; kv < 2; ++kv) {
          for (int h = 0; h < c.kv_heads; ++h) {
            for (int d = 0; d < c.head_dim; ++d) {
              set_page_value(memory.as<>(), c.pages, element(static_cast<int>(slot), p, h, kv, d), values.normal());
            }
          }
        }
      }
    }
  }

  int64_t element(int slot, int position, int head, int kv, int d) const {
    const int64_t block = table[static_cast<size_t>(slot * blocks_per_slot + position / shape.block_tokens)];
    const int64_t plane = (block * shape.kv_heads + head) * 2 + kv;
    return (plane * shape.block_tokens + position % shape.block_tokens) * shape.head_dim + d;
  }
  double value(int slot, int position, int head, int kv, int d) {
    return page_value(memory.as<>(), shape.pages, element(slot, position, head, kv, d));
  }
  KvPages pages() {
    return {.data = memory.as<>(), .format = shape.pages, .blocks = blocks, .kv_heads = shape.kv_heads,
            .block_tokens = shape.block_tokens, .head_dim = shape.head_dim,
            .block_table = table.data(), .blocks_per_slot = blocks_per_slot};
  }

  Case shape;
  int blocks_per_slot;
  int blocks;
  Memory memory;
  std::vector<int32_t> table;
};

struct Query {
  int slot;
  int first, count;  // positions
};

// The q vector of a token depends on slot and position alone.
std::vector<float> query_vector(const Case& c, int slot, int position) {
  Random random(77 + static_cast<uint32_t>(slot * 100003 + position));
  return random.normals(int64_t{c.q_heads} * c.head_dim);
}

struct Step {
  Step(const Case& c, const std::vector<Query>& queries) {
    query_begin.push_back(0);
    for (const Query& query : queries) {
      slots.push_back(query.slot);
      for (int i = 0; i < query.count; ++i) {
        positions.push_back(query.first + i);
        const auto vector = query_vector(c, query.slot, query.first + i);
        q.insert(q.end(), vector.begin(), vector.end());
        q.insert(q.end(), 5, NAN);  // the row stride is longer than the row
      }
      query_begin.push_back(static_cast<int32_t>(positions.size()));
    }
  }
  StepView view() const {
    return {.rows = static_cast<int>(slots.size()), .tokens = static_cast<int>(positions.size()),
            .token_ids = nullptr, .positions = positions.data(), .query_begin = query_begin.data(),
            .slots = slots.data()};
  }
  std::vector<int32_t> slots, positions, query_begin;
  std::vector<float> q;
};

using Outputs = std::map<std::pair<int, int>, std::vector<float>>;  // by slot and position

void run(Rank* rank, const Case& c, Cache* cache, const std::vector<Query>& queries, Outputs* outputs,
         const std::vector<uint64_t>* tree = nullptr) {
  const Step step(c, queries);
  const int64_t columns = int64_t{c.q_heads} * c.head_dim;
  const int64_t tokens = static_cast<int64_t>(step.positions.size());
  Owned q = f32_tensor(step.q, tokens, columns + 5);
  Owned out(c.out, tokens, columns);
  cpu_ops().attention(rank->device(),
                      {.out = out.tensor, .q = q.tensor, .step = step.view(), .pages = cache->pages(),
                       .q_heads = c.q_heads, .group_size = c.group_size, .group_offset = c.group_offset,
                       .scale = 0.3f, .window = c.window, .tree_mask = tree == nullptr ? nullptr : tree->data()});
  EXPECT_TRUE(out.memory.intact());
  EXPECT_TRUE(cache->memory.intact());
  int64_t token = 0;
  for (const Query& query : queries) {
    for (int i = 0; i < query.count; ++i, ++token) {
      auto& row = (*outputs)[{query.slot, query.first + i}];
      row.clear();
      for (int64_t k = 0; k < columns; ++k) {
        row.push_back(static_cast<float>(activation_at(out.tensor, token, k)));
      }
    }
  }
}

std::vector<double> reference(const Case& c, Cache* cache, int slot, int position, const std::vector<int>& keys) {
  const auto q = query_vector(c, slot, position);
  std::vector<double> out(q.size());
  for (int h = 0; h < c.q_heads; ++h) {
    const int kv = (h + c.group_offset) / c.group_size;
    std::vector<double> scores;
    double highest = -INFINITY;
    for (int key : keys) {
      double score = 0;
      for (int d = 0; d < c.head_dim; ++d) {
        score += static_cast<double>(q[static_cast<size_t>(h * c.head_dim + d)]) * cache->value(slot, key, kv, 0, d);
      }
      scores.push_back(score * static_cast<double>(0.3f));
      highest = std::max(highest, scores.back());
    }
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - highest);
    for (int d = 0; d < c.head_dim; ++d) {
      double sum = 0;
      for (size_t k = 0; k < keys.size(); ++k) sum += scores[k] / total * cache->value(slot, keys[k], kv, 1, d);
      out[static_cast<size_t>(h * c.head_dim + d)] = sum;
    }
  }
  return out;
}

std::vector<int> causal_keys(const Case& c, int position) {
  std::vector<int> keys;
  for (int p = c.window > 0 ? std::max(0, position - c.window + 1) : 0; p <= position; ++p) keys.push_back(p);
  return keys;
}

void expect_close(const std::vector<float>& got, const std::vector<double>& wanted, double bound,
                  const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted[i], bound) << what << " column " << i;
}

std::vector<Case> cases() {
  return {
      {},
      {.block_tokens = 32, .pages = Format::kF16},
      {.head_dim = 128, .kv_heads = 1, .q_heads = 7, .group_size = 8, .group_offset = 0, .block_tokens = 5},
      {.head_dim = 16, .kv_heads = 2, .q_heads = 4, .group_size = 2, .window = 9, .pages = Format::kBF16},
      {.head_dim = 8, .kv_heads = 2, .q_heads = 4, .group_size = 3, .group_offset = 1, .block_tokens = 1},
      {.head_dim = 40, .kv_heads = 4, .q_heads = 4, .group_size = 1, .window = 33, .pages = Format::kF16},
      {.head_dim = 256, .kv_heads = 1, .q_heads = 2, .group_size = 2, .block_tokens = 64},
      {.head_dim = 80, .kv_heads = 2, .q_heads = 4, .group_size = 2, .window = 70, .pages = Format::kBF16},
      {.head_dim = 64, .kv_heads = 1, .q_heads = 71, .group_size = 71},
  };
}

TEST(Attention, AgreesWithDoublePrecision) {
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa, 2);
    for (Case c : cases()) {
      for (Format out : {Format::kF32, Format::kI8Block32}) {
        c.out = out;
        if (out == Format::kI8Block32 && c.q_heads * c.head_dim % 32 != 0) continue;
        Cache cache(c, {1, 130, 67, 64}, 5);
        Outputs outputs;
        run(&rank, c, &cache, {{0, 0, 1}, {1, 100, 30}, {2, 66, 1}, {3, 0, 64}}, &outputs);
        for (const auto& [at, row] : outputs) {
          if (at.second % 7 != 0 && at.second < 120) continue;
          const auto wanted = reference(c, &cache, at.first, at.second, causal_keys(c, at.second));
          const double bound = out == Format::kF32 ? 3e-6 : 0.02;
          expect_close(row, wanted, bound,
                       isa + " dim " + std::to_string(c.head_dim) + " slot " + std::to_string(at.first) +
                           " position " + std::to_string(at.second));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// One query alone, chunks of any size, other rows beside it, other pages, other threads and instruction
// sets: always the same bits.
TEST(Attention, IsBitwiseTheSameHoweverTheStepIsCut) {
  for (Case c : cases()) {
    for (Format out : {Format::kF32, Format::kI8Block32}) {
      c.out = out;
      if (out == Format::kI8Block32 && c.q_heads * c.head_dim % 32 != 0) continue;
      const std::vector<int> lengths = {150, 90};
      Outputs expected;
      Cache cache(c, lengths, 5);
      Rank first("avx2");
      run(&first, c, &cache, {{0, 0, 150}, {1, 0, 90}}, &expected);
      for (const std::string& isa : instruction_sets()) {
        for (int threads : {1, 3, 16}) {
          Rank rank(isa, threads);
          Case other = c;
          other.block_tokens = c.block_tokens == 16 ? 64 : 16;
          Cache moved(threads == 1 ? c : other, lengths, 9);
          for (int chunk : {1, 2, 17, 64}) {
            Outputs outputs;
            for (int begin = 0; begin < 150; begin += chunk) {
              if (chunk == 1 && begin % 5 != 0) continue;
              std::vector<Query> queries;
              if (begin < 90) queries.push_back({1, begin, std::min(chunk, 90 - begin)});
              queries.push_back({0, begin, std::min(chunk, 150 - begin)});
              run(&rank, c, &moved, queries, &outputs);
            }
            for (const auto& [at, row] : outputs) {
              ASSERT_EQ(row, expected[at]) << isa << " dim " << c.head_dim << " threads " << threads << " chunk "
                                           << chunk << " slot " << at.first << " position " << at.second;
            }
          }
        }
      }
    }
  }
}

TEST(Attention, FollowsATreeMask) {
  const Case c = {.window = 40};
  for (int context : {0, 3, 50, 61, 64, 100}) {
    Cache cache(c, {context + 5}, 3);
    // 0 is the root; 1 and 2 its children; 3 below 1; 4 below 2.
    const std::vector<std::vector<int>> seen = {{0}, {0, 1}, {0, 2}, {0, 1, 3}, {0, 2, 4}};
    std::vector<uint64_t> mask;
    for (const auto& ancestors : seen) {
      uint64_t bits = 0;
      for (int a : ancestors) bits |= uint64_t{1} << a;
      mask.push_back(bits);
    }
    for (const std::string& isa : instruction_sets()) {
      Rank rank(isa);
      Outputs outputs;
      run(&rank, c, &cache, {{0, context, 5}}, &outputs, &mask);
      for (int i = 0; i < 5; ++i) {
        std::vector<int> keys;
        for (int p = std::max(0, context + i - 39); p < context; ++p) keys.push_back(p);
        for (int a : seen[static_cast<size_t>(i)]) {
          if (context + a >= context + i - 39) keys.push_back(context + a);
        }
        expect_close(outputs[{0, context + i}], reference(c, &cache, 0, context + i, keys), 3e-6,
                     isa + " context " + std::to_string(context) + " node " + std::to_string(i));
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace skein::test
