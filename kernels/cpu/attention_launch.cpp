#include "kernels/cpu/attention_launch.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/packed.h"

namespace skein {
namespace {

constexpr int64_t kSerialWork = 64 * 1024;  // multiplications that aren't worth a second thread
constexpr int64_t kPiecesPerThread = 16;

// How the heads of one tile of queries are dealt to units. Keys are read once per unit, so the heads of a KV head
// belong together; but they are split where that occupies more threads, or where one pass over the keys serves fewer
// at less cost. A quantised block that spans heads needs all of them in one unit.
struct Plan {
  bool all_heads = false;
  int64_t splits = 1;   // units per KV head
  int64_t parts = 1;    // units per tile
  int64_t queries = 1;  // per tile
};

int64_t kv_heads_used(const AttentionArgs& args) {
  return (args.q_heads - 1 + args.group_offset) / args.group_size + 1;
}

// The first q head of a KV head.
int64_t first_head(const AttentionArgs& args, int64_t kv_head) {
  return std::clamp<int64_t>(kv_head * args.group_size - args.group_offset, 0, args.q_heads);
}

// Of a pass for so many (query, head) pairs, in passes for one. A few read the pages themselves (attention.h).
double pass_cost(int64_t pairs, bool direct) {
  const auto count = static_cast<double>(pairs);
  return direct && pairs <= 4 ? 1 + (count - 1) / 12 : 1 + count / 3;
}

int64_t best_splits(int64_t heads, int64_t queries, int64_t units, int threads, bool direct) {
  int64_t best = 1;
  double best_cost = HUGE_VAL;
  for (int64_t splits = 1; splits <= heads; ++splits) {
    const auto rounds = static_cast<double>(ceil_div<int64_t>(units * splits, threads));
    const double cost = rounds * pass_cost(ceil_div(heads, splits) * queries, direct);
    if (cost < best_cost) best = splits;
    best_cost = std::min(cost, best_cost);
  }
  return best;
}

int64_t tiles_in_row(const AttentionArgs& args, const Plan& plan, int row) {
  return ceil_div<int64_t>(args.step.query_begin[row + 1] - args.step.query_begin[row], plan.queries);
}

int64_t count_tiles(const AttentionArgs& args, const Plan& plan) {
  int64_t tiles = 0;
  for (int row = 0; row < args.step.rows; ++row) tiles += tiles_in_row(args, plan, row);
  return tiles;
}

Plan make_plan(const AttentionArgs& args, int threads) {
  Plan plan;
  if (args.out.format != Format::kF32 && args.pages.head_dim % kBlock != 0) {
    plan.all_heads = true;
    plan.queries = std::clamp<int64_t>(kOutFloatsMax / args.out.columns, 1, kPairsMax);
    return plan;
  }
  const int64_t kv_heads = kv_heads_used(args);
  const int64_t heads = std::min(args.group_size, args.q_heads);
  plan.queries = std::max<int64_t>(1, kPairsMax / heads);
  const int64_t tiles = count_tiles(args, plan);
  plan.splits = best_splits(heads, ceil_div<int64_t>(args.step.tokens, tiles), tiles * kv_heads, threads,
                            args.pages.head_dim % 16 == 0);
  plan.parts = kv_heads * plan.splits;
  return plan;
}

Range heads_of(const AttentionArgs& args, const Plan& plan, int64_t part) {
  if (plan.all_heads) return {0, args.q_heads};
  const int64_t begin = first_head(args, part / plan.splits);
  const int64_t heads = first_head(args, part / plan.splits + 1) - begin;
  const int64_t within = part % plan.splits;
  return {begin + heads * within / plan.splits, begin + heads * (within + 1) / plan.splits};
}

// Walks the units in a fixed order.
class UnitCursor {
 public:
  UnitCursor(const AttentionArgs& args, const Plan& plan) : args_(args), plan_(plan) {}

  // Requires: rising indices below the number of units.
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
  const int64_t units = count_tiles(args, plan) * plan.parts;
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
