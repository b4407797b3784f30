#include "kernels/cpu/attention_launch.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/packed.h"

namespace skein {
namespace {

constexpr int64_t kSerialWork = 64 * 1024;  // multiplications that aren't worth a second thread

// How heads are dealt to units. Keys are read once per unit, so the heads of a KV head belong together,
// unless that leaves threads idle; a quantised block that spans heads needs all of them.
enum class HeadSplit { kAll, kPerKvHead, kPerHead };

struct Plan {
  HeadSplit split = HeadSplit::kPerKvHead;
  int64_t head_parts = 1;
  int64_t queries = 1;  // per unit
};

int64_t kv_heads_used(const AttentionArgs& args) {
  return (args.q_heads - 1 + args.group_offset) / args.group_size + 1;
}

Plan make_plan(const AttentionArgs& args, int threads) {
  Plan plan;
  if (args.out.format != Format::kF32 && args.pages.head_dim % kBlock != 0) {
    plan.split = HeadSplit::kAll;
    plan.queries = std::clamp<int64_t>(kOutFloatsMax / args.out.columns, 1, kPairsMax);
    return plan;
  }
  const int64_t kv_heads = kv_heads_used(args);
  if (threads > 1 && args.step.tokens * kv_heads < 4 * threads) {
    plan.split = HeadSplit::kPerHead;
    plan.head_parts = args.q_heads;
    plan.queries = kPairsMax;
  } else {
    plan.head_parts = kv_heads;
    plan.queries = std::max(1, kPairsMax / std::min(args.group_size, args.q_heads));
  }
  return plan;
}

Range heads_of(const AttentionArgs& args, HeadSplit split, int64_t part) {
  switch (split) {
    case HeadSplit::kAll: return {0, args.q_heads};
    case HeadSplit::kPerHead: return {part, part + 1};
    case HeadSplit::kPerKvHead: break;
  }
  const int64_t begin = part * args.group_size - args.group_offset;
  return {std::max<int64_t>(begin, 0), std::min<int64_t>(begin + args.group_size, args.q_heads)};
}

// Walks the units in a fixed order; a thread asks for rising indices.
class UnitCursor {
 public:
  UnitCursor(const AttentionArgs& args, const Plan& plan) : args_(args), plan_(plan) {}

  // False beyond the last unit.
  bool at(int64_t index, AttentionUnit* unit) {
    while (row_ < args_.step.rows && index >= first_ + units_in_row()) {
      first_ += units_in_row();
      ++row_;
    }
    if (row_ >= args_.step.rows) return false;
    const int64_t within = index - first_;
    const int64_t begin = args_.step.query_begin[row_];
    const int64_t end = args_.step.query_begin[row_ + 1];
    // Later queries see more keys: they go first, so that the last unit to start is a short one.
    const int64_t tile = tiles_in_row() - 1 - within / plan_.head_parts;
    const int64_t first = begin + tile * plan_.queries;
    unit->row = row_;
    unit->queries = {first, std::min(first + plan_.queries, end)};
    unit->heads = heads_of(args_, plan_.split, within % plan_.head_parts);
    return true;
  }

 private:
  int64_t tiles_in_row() const {
    const int64_t queries = args_.step.query_begin[row_ + 1] - args_.step.query_begin[row_];
    return ceil_div(queries, plan_.queries);
  }
  int64_t units_in_row() const { return tiles_in_row() * plan_.head_parts; }

  const AttentionArgs& args_;
  const Plan& plan_;
  int row_ = 0;
  int64_t first_ = 0;  // index of the row's first unit
};

void check(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  const StepView& step = args.step;
  CHECK(args.q.format == Format::kF32 && args.q.layout == Layout::kRowMajor);
  CHECK(args.out.format == Format::kF32 || args.out.format == Format::kI8Block32);
  CHECK(args.q_heads > 0 && args.group_size > 0 && args.group_offset >= 0);
  CHECK(pages.head_dim > 0 && pages.head_dim <= kHeadDimMax && pages.head_dim % 8 == 0);
  CHECK(pages.format == Format::kF32 || pages.format == Format::kF16 ||
        pages.format == Format::kBF16);
  CHECK(pages.block_tokens > 0 && pages.blocks_per_slot > 0);
  CHECK_LE(kv_heads_used(args), pages.kv_heads);
  CHECK_EQ(args.out.columns, int64_t{args.q_heads} * pages.head_dim);
  CHECK_EQ(args.out.rows, step.tokens);
  CHECK_EQ(args.q.rows, step.tokens);
  CHECK_GE(args.q.row_stride, args.out.columns);
  if (args.out.format == Format::kI8Block32) {
    CHECK_EQ(args.out.columns % kBlock, 0);
    if (pages.head_dim % kBlock != 0) CHECK_LE(args.out.columns, kOutFloatsMax);
  }
  CHECK_EQ(step.query_begin[step.rows], step.tokens);
  const int64_t positions = int64_t{pages.blocks_per_slot} * pages.block_tokens;
  for (int r = 0; r < step.rows; ++r) {
    const int32_t count = step.query_begin[r + 1] - step.query_begin[r];
    if (count == 0) continue;
    CHECK_GE(step.positions[step.query_begin[r]], 0);
    CHECK_LT(step.positions[step.query_begin[r]] + int64_t{count} - 1, positions);
    if (args.tree_mask != nullptr) CHECK_LE(count, 64);
  }
}

bool is_small(const AttentionArgs& args) {
  int64_t keys = 0;
  for (int t = 0; t < args.step.tokens; ++t) {
    const int64_t seen = args.step.positions[t] + int64_t{1};
    keys += args.window > 0 ? std::min<int64_t>(seen, args.window) : seen;
  }
  return keys * args.out.columns * 2 < kSerialWork;
}

}  // namespace

void launch_attention(Device& device, const AttentionArgs& args) {
  if (args.step.tokens == 0) return;
  check(args);
  auto& rank = static_cast<CpuDevice&>(device);
  const bool serial = rank.team().size() == 1 || is_small(args);
  const Plan plan = make_plan(args, serial ? 1 : rank.team().size());
  std::atomic<int64_t> next{0};
  const auto body = [&](int thread) {
    UnitCursor cursor(args, plan);
    AttentionUnit unit;
    while (cursor.at(next.fetch_add(1, std::memory_order_relaxed), &unit)) {
      rank.kernels().attention(args, unit, rank.attention_scratch(thread));
    }
  };
  if (serial) {
    body(0);
  } else {
    rank.team().run(body);
  }
}

}  // namespace skein
