#include "tests/gpu/attention_fixture.h"

#include <cstdio>
#include <numeric>

namespace skein::test {
namespace {

constexpr int32_t kNowhere = 0x3fffffff;

int total_blocks(const AttentionShape& shape, const std::vector<int>& lengths) {
  int blocks = 3;
  for (const int length : lengths) blocks += (length + shape.block_tokens - 1) / shape.block_tokens;
  return blocks;
}

int most_blocks(const AttentionShape& shape, const std::vector<int>& lengths) {
  return *std::ranges::max_element(lengths) / shape.block_tokens + 3;
}

std::vector<int32_t> positions_of(const std::vector<Queries>& rows) {
  std::vector<int32_t> positions;
  for (const Queries& row : rows) {
    for (int i = 0; i < row.count; ++i) positions.push_back(row.slot < 0 ? -1 : row.first + i);
  }
  return positions;
}

std::vector<int32_t> begins_of(const std::vector<Queries>& rows) {
  std::vector<int32_t> begins = {0};
  for (const Queries& row : rows) begins.push_back(begins.back() + row.count);
  return begins;
}

std::vector<int32_t> slots_of(const std::vector<Queries>& rows) {
  std::vector<int32_t> slots;
  for (const Queries& row : rows) slots.push_back(row.slot);
  return slots;
}

}  // namespace

PagedCache::PagedCache(const AttentionShape& shape, std::vector<int> lengths, uint32_t seed)
    : shape_(shape),
      lengths_(std::move(lengths)),
      blocks_(total_blocks(shape, lengths_)),
      blocks_per_slot_(most_blocks(shape, lengths_)),
      table_(lengths_.size() * static_cast<size_t>(blocks_per_slot_), kNowhere),
      pool_memory_(gpu(), int64_t{blocks_} * shape.kv_heads * 2 * shape.block_tokens * shape.head_dim * 2),
      table_memory_(gpu(), static_cast<int64_t>(table_.size()) * 4) {
  std::mt19937 random(seed);
  std::vector<int32_t> order(static_cast<size_t>(blocks_));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::shuffle(order, random);
  size_t next = 0;
  for (size_t slot = 0; slot < lengths_.size(); ++slot) {
    const int blocks = (lengths_[slot] + shape.block_tokens - 1) / shape.block_tokens;
    int32_t* row = table_.data() + slot * static_cast<size_t>(blocks_per_slot_);
    for (int i = 0; i < blocks; ++i) row[i] = order[next++];
    values_.push_back(bf16_normals(random, int64_t{lengths_[slot]} * shape.kv_heads * 2 * shape.head_dim));
  }
  gpu().copy_to_device(table_memory_.as(), table_.data(), table_memory_.bytes());
}

KvPages PagedCache::pages() {
  return {.data = pool_memory_.as(), .format = Format::kBF16, .blocks = blocks_, .kv_heads = shape_.kv_heads,
          .block_tokens = shape_.block_tokens, .head_dim = shape_.head_dim,
          .block_table = table_memory_.as<int32_t>(), .blocks_per_slot = blocks_per_slot_};
}

const float* PagedCache::row(int slot, int position, int head, int kv) const {
  const int64_t at = ((int64_t{position} * shape_.kv_heads + head) * 2 + kv) * shape_.head_dim;
  return values_[static_cast<size_t>(slot)].data() + at;
}

int64_t PagedCache::pool_element(int slot, int position, int head, int kv) const {
  const int64_t block = table_[static_cast<size_t>(slot * blocks_per_slot_ + position / shape_.block_tokens)];
  const int64_t plane = (block * shape_.kv_heads + head) * 2 + kv;
  return (plane * shape_.block_tokens + position % shape_.block_tokens) * shape_.head_dim;
}

void PagedCache::upload(const std::vector<int>& written) {
  std::vector<uint16_t> pool(static_cast<size_t>(pool_memory_.bytes() / 2), 0xffff);
  for (int slot = 0; slot < static_cast<int>(lengths_.size()); ++slot) {
    for (int position = 0; position < written[static_cast<size_t>(slot)]; ++position) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        for (int kv = 0; kv < 2; ++kv) {
          const float* from = row(slot, position, head, kv);
          uint16_t* to = pool.data() + pool_element(slot, position, head, kv);
          for (int d = 0; d < shape_.head_dim; ++d) to[d] = f32_to_bf16(from[d]);
        }
      }
    }
  }
  gpu().copy_to_device(pool_memory_.as(), pool.data(), pool_memory_.bytes());
}

std::vector<uint16_t> PagedCache::pool() {
  EXPECT_TRUE(pool_memory_.intact());
  return download<uint16_t>(gpu(), pool_memory_.as(), pool_memory_.bytes() / 2);
}

DeviceStep::DeviceStep(const std::vector<Queries>& step_rows, int step_decode_rows)
    : rows(step_rows),
      decode_rows(step_decode_rows),
      positions(positions_of(rows)),
      query_begin(begins_of(rows)),
      slots(slots_of(rows)),
      positions_memory(test::upload(gpu(), positions)),
      query_begin_memory(test::upload(gpu(), query_begin)),
      slots_memory(test::upload(gpu(), slots)) {}

StepView DeviceStep::view() const {
  return {.rows = static_cast<int>(rows.size()), .tokens = tokens(), .decode_rows = decode_rows,
          .query_begin_host = query_begin.data(), .positions = positions_memory.as<int32_t>(),
          .query_begin = query_begin_memory.as<int32_t>(), .slots = slots_memory.as<int32_t>()};
}

std::vector<double> attend_in_double(const AttentionShape& shape, const PagedCache& cache, const DeviceStep& step,
                                     const std::vector<float>& q, double scale, const std::vector<uint64_t>* tree) {
  const int width = shape.q_heads * shape.head_dim;
  std::vector<double> out(static_cast<size_t>(step.tokens()) * static_cast<size_t>(width), 0);
  int token = 0;
  for (const Queries& row : step.rows) {
    for (int i = 0; i < row.count; ++i, ++token) {
      if (row.slot < 0) continue;
      const int position = row.first + i;
      const int begin = shape.window > 0 ? std::max(position - shape.window + 1, 0) : 0;
      const int end = tree != nullptr ? row.first + row.count : position + 1;
      for (int head = 0; head < shape.q_heads; ++head) {
        const int kv_head = (head + shape.group_offset) / shape.group_size;
        const float* query = q.data() + int64_t{token} * width + head * shape.head_dim;
        std::vector<double> scores(static_cast<size_t>(end), -INFINITY);
        double maximum = -INFINITY;
        for (int key = begin; key < end; ++key) {
          const bool in_tree = tree != nullptr && key >= row.first;
          if (in_tree && ((*tree)[static_cast<size_t>(token)] >> (key - row.first) & 1) == 0) continue;
          const float* k = cache.row(row.slot, key, kv_head, 0);
          double score = 0;
          for (int d = 0; d < shape.head_dim; ++d) score += double{query[d]} * k[d];
          scores[static_cast<size_t>(key)] = score * scale;
          maximum = std::max(maximum, score * scale);
        }
        double sum = 0;
        double* result = out.data() + int64_t{token} * width + head * shape.head_dim;
        for (int key = begin; key < end; ++key) {
          const double weight = std::exp(scores[static_cast<size_t>(key)] - maximum);
          if (weight == 0) continue;
          sum += weight;
          const float* v = cache.row(row.slot, key, kv_head, 1);
          for (int d = 0; d < shape.head_dim; ++d) result[d] += weight * v[d];
        }
        for (int d = 0; d < shape.head_dim; ++d) result[d] /= sum;
      }
    }
  }
  return out;
}

Rotation make_rotation(const AttentionShape& shape, int rotary_dim, int positions, bool norms, uint32_t seed) {
  std::mt19937 random(seed);
  Rotation rotation;
  rotation.rotary_dim = rotary_dim;
  for (int position = 0; position < positions; ++position) {
    for (int i = 0; i < rotary_dim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / rotary_dim);
      rotation.cos_sin.push_back(static_cast<float>(std::cos(angle)));
      rotation.cos_sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  if (norms) {
    rotation.q_norm = bf16_normals(random, shape.head_dim);
    rotation.k_norm = bf16_normals(random, shape.head_dim);
  }
  return rotation;
}

namespace {

void rotate_head(const Rotation& rotation, const std::vector<float>& norm, const float* from, int head_dim,
                 int position, float* to) {
  std::vector<double> x(from, from + head_dim);
  if (!norm.empty()) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / head_dim + rotation.epsilon);
    for (int d = 0; d < head_dim; ++d) x[static_cast<size_t>(d)] *= scale * norm[static_cast<size_t>(d)];
  }
  const int half = rotation.rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float* pair = rotation.cos_sin.data() + (int64_t{position} * half + i) * 2;
    const double a = x[static_cast<size_t>(i)];
    const double b = x[static_cast<size_t>(i + half)];
    x[static_cast<size_t>(i)] = a * pair[0] - b * pair[1];
    x[static_cast<size_t>(i + half)] = b * pair[0] + a * pair[1];
  }
  for (int d = 0; d < head_dim; ++d) to[d] = bf16_to_f32(f32_to_bf16(static_cast<float>(x[static_cast<size_t>(d)])));
}

}  // namespace

void append_in_double(const AttentionShape& shape, const Rotation& rotation, const DeviceStep& step,
                      const std::vector<float>& qkv, PagedCache& cache, std::vector<float>& q) {
  const int heads = shape.q_heads + 2 * shape.kv_heads;
  q.assign(static_cast<size_t>(step.tokens() * shape.q_heads * shape.head_dim), 0);
  int token = 0;
  for (const Queries& row : step.rows) {
    for (int i = 0; i < row.count; ++i, ++token) {
      if (row.slot < 0) continue;
      const int position = row.first + i;
      const float* x = qkv.data() + int64_t{token} * heads * shape.head_dim;
      for (int head = 0; head < shape.q_heads; ++head, x += shape.head_dim) {
        rotate_head(rotation, rotation.q_norm, x, shape.head_dim, position,
                    q.data() + (int64_t{token} * shape.q_heads + head) * shape.head_dim);
      }
      for (int head = 0; head < shape.kv_heads; ++head, x += shape.head_dim) {
        rotate_head(rotation, rotation.k_norm, x, shape.head_dim, position, cache.row(row.slot, position, head, 0));
      }
      for (int head = 0; head < shape.kv_heads; ++head, x += shape.head_dim) {
        std::copy_n(x, shape.head_dim, cache.row(row.slot, position, head, 1));
      }
    }
  }
}

double worst_head_error(const std::vector<uint16_t>& out, const std::vector<double>& expected, int head_dim, int heads,
                        double limit) {
  CHECK_EQ(out.size(), expected.size());
  double worst = 0;
  for (size_t at = 0; at < out.size(); at += static_cast<size_t>(head_dim)) {
    double difference = 0;
    double norm = 0;
    for (size_t d = at; d < at + static_cast<size_t>(head_dim); ++d) {
      const double delta = bf16_to_f32(out[d]) - expected[d];
      difference += delta * delta;
      norm += expected[d] * expected[d];
    }
    double error = norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
    if (!std::isfinite(error)) error = INFINITY;
    if (error > limit && worst <= limit) {
      const size_t index = at / static_cast<size_t>(head_dim);
      std::printf("token %zu head %zu: error %g; %g %g against %g %g\n", index / static_cast<size_t>(heads),
                  index % static_cast<size_t>(heads), error, bf16_to_f32(out[at]), bf16_to_f32(out[at + 1]),
                  expected[at], expected[at + 1]);
    }
    worst = std::max(worst, error);
  }
  return worst;
}

}  // namespace skein::test
