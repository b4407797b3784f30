#include "kernels/cpu/attention_launch.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/packed.h"

namespace skein {
namespace {

constexpr int64_t kSerialWork = 64 * 1024;  // multiplications that aren't worth a second thread
constexpr int64_t kPiecesPerThread = 16;

// How the heads of one tile of queries are dealt to units. Keys are read once per unit, so the heads of a KV
// head belong together. With few units, the KV heads that don't go evenly into the threads are dealt out head
// by head. A quantised block that spans heads needs all of them in one unit.
struct Plan {
  bool all_heads = false;
  int64_t whole_groups = 1;  // the first KV heads, one unit each
  int64_t parts = 1;         // units per tile
  int64_t queries = 1;       // per tile
};

int64_t kv_heads_used(const AttentionArgs& args) {
  return (args.q_heads - 1 + args.group_offset) / args.group_size + 1;
}

// The first q head of a KV head.
int64_t first_head(const AttentionArgs& args, int64_t kv_head) {
  return std::clamp<int64_t>(kv_head * args.group_size - args.group_offset, 0, args.q_heads);
}

Plan make_plan(const AttentionArgs& args, int threads) {
  Plan plan;
  if (args.out.format != Format::kF32 && args.pages.head_dim % kBlock != 0) {
    plan.all_heads = true;
    plan.queries = std::clamp<int64_t>(kOutFloatsMax / args.out.columns, 1, kPairsMax);
    return plan;
  }
  const int64_t kv_heads = kv_heads_used(args);
  plan.queries = std::max(1, kPairsMax / std::min(args.group_size, args.q_heads));
  plan.whole_groups = kv_heads;
  if (args.step.tokens * kv_heads < 4 * threads) plan.whole_groups -= kv_heads % threads;
  plan.parts = plan.whole_groups + args.q_heads - first_head(args, plan.whole_groups);
  return plan;
}

Range heads_of(const AttentionArgs& args, const Plan& plan, int64_t part) {
  if (plan.all_heads) return {0, args.q_heads};
  if (part < plan.whole_groups) return {first_head(args, part), first_head(args, part + 1)};
  const int64_t head = first_head(args, plan.whole_groups) + part - plan.whole_groups;
  return {head, head + 1};
}

int64_t tiles_in_row(const AttentionArgs& args, const Plan& plan, int row) {
  return ceil_div<int64_t>(args.step.query_begin[row + 1] - args.step.query_begin[row], plan.queries);
}

int64_t count_units(const AttentionArgs& args, const Plan& plan) {
  int64_t tiles = 0;
  for (int row = 0; row < args.step.rows; ++row) tiles += tiles_in_row(args, plan, row);
  return tiles * plan.parts;
}

// Walks the units in a fixed order.
class UnitCursor {
 public:
  UnitCursor(const AttentionArgs& args, const Plan& plan) : args_(args), plan_(plan) {}

  // Requires: rising indices below count_units().
  void move_to(int64_t index, AttentionUnit* unit) {
    int64_t tiles = tiles_in_row(args_, plan_, row_);
    while (index >= first_ + tiles * plan_.parts) {
      first_ += tiles * plan_.parts;
      tiles = tiles_in_row(args_, plan_, ++row_);
    }
    const int64_t within = index - first_;
    const int64_t begin = args_.step.query_begin[row_];
    const int64_t end = args_.step.query_begin[row_ + 1];
    // Later queries see more keys: they go first, so that the last unit to start is a short one.
    const int64_t tile = tiles - 1 - within / plan_.parts;
    const int64_t first = begin + tile * plan_.queries;
    unit->row = row_;
    unit->queries = {first, std::min(first + plan_.queries, end)};
    unit->heads = heads_of(args_, plan_, within % plan_.parts);
  }

 private:
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
  const int threads = is_small(args) ? 1 : rank.team().size();
  const Plan plan = make_plan(args, threads);
  const int64_t units = count_units(args, plan);
  const int64_t pieces = threads == 1 ? 1 : std::min<int64_t>(units, kPiecesPerThread * threads);
  rank.team().run(pieces, [&](int64_t piece, int thread) {
    UnitCursor cursor(args, plan);
    AttentionUnit unit;
    for (int64_t i = units * piece / pieces; i < units * (piece + 1) / pieces; ++i) {
      cursor.move_to(i, &unit);
      rank.kernels().attention(args, unit, rank.attention_scratch(thread));
    }
  });
}

}  // namespace skein
