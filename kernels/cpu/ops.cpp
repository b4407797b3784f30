#include "kernels/ops.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cpu/attention_launch.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/sample.h"

// The CPU's table: each launcher checks shapes, cuts the launch into shares and runs them on the team.

namespace skein {
namespace {

CpuDevice& cpu(Device& device) { return static_cast<CpuDevice&>(device); }

// Below this many elements (or weights times tokens) a second thread costs more than it saves. Those of an embedding
// lie far apart.
constexpr int64_t kSerialElements = 8 * 1024;
constexpr int64_t kSerialEmbedding = 1024;
constexpr int64_t kSerialProducts = 64 * 1024;

constexpr int64_t kTokenBlock = 8;       // of products that are cut by tokens
constexpr int64_t kBlocksPerThread = 4;  // or else they are cut by outputs, too

// Runs body(Range) over [0, count) cut into shares, each a multiple of `grain`: one large one per thread, so
// that memory is read in long runs, and some small ones for whoever is done first.
template <typename Body>
void run_shares(CpuDevice& device, int64_t count, int64_t grain, bool serial, const Body& body) {
  const int64_t threads = device.team().size();
  const int64_t units = ceil_div(count, grain);
  if (serial || threads == 1 || units <= 1) {
    if (count > 0) body(Range{0, count});
    return;
  }
  const int64_t small = std::min(2 * threads, units);
  const int64_t large = units <= 2 * small ? 0 : units * 3 / (4 * threads);
  const int64_t large_count = large == 0 ? 0 : threads;
  const int64_t rest = units - large * large_count;
  const auto boundary = [&](int64_t piece) {  // in units
    if (piece < large_count) return piece * large;
    return large * large_count + rest * (piece - large_count) / small;
  };
  device.team().run(large_count + small, [&](int64_t piece, int) {
    const int64_t begin = boundary(piece) * grain;
    const int64_t end = std::min(boundary(piece + 1) * grain, count);
    if (begin < end) body(Range{begin, end});
  });
}

void check_activation(const Tensor& out) {
  CHECK(out.data != nullptr || out.rows == 0);
  CHECK(out.layout == Layout::kRowMajor);
  if (out.format == Format::kF32) {
    CHECK_GE(out.row_stride, out.columns);
  } else {
    CHECK(out.format == Format::kI8Block32);
    CHECK_EQ(out.columns % kBlock, 0);
    CHECK(out.scales != nullptr || out.rows == 0);
  }
}

void check_f32(const Tensor& x) {
  CHECK(x.format == Format::kF32);
  check_activation(x);
}

void check_pages(const KvPages& pages) {
  CHECK(pages.data != nullptr && pages.block_table != nullptr);
  CHECK(pages.format == Format::kF32 || pages.format == Format::kF16 ||
        pages.format == Format::kBF16);
  CHECK(pages.head_dim > 0 && pages.head_dim <= kHeadDimMax && pages.head_dim % 8 == 0);
  CHECK(pages.kv_heads > 0 && pages.block_tokens > 0 && pages.blocks_per_slot > 0);
}

void check_step(const StepView& step) {
  CHECK(step.rows >= 0 && step.tokens >= 0);
  CHECK(step.query_begin != nullptr && step.slots != nullptr);
  CHECK_EQ(step.query_begin[0], 0);
  CHECK_EQ(step.query_begin[step.rows], step.tokens);
}

Result<void*> allocate(Device& device, int64_t bytes) { return cpu(device).memory().allocate(bytes); }
void release(Device& device, void* data) { cpu(device).memory().release(data); }

void copy(Device&, void* to, const void* from, int64_t bytes) {
  CHECK_GE(bytes, 0);
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

Result<DeviceMemory> memory(Device&) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  return DeviceMemory{.total = sysconf(_SC_PHYS_PAGES) * page, .free = sysconf(_SC_AVPHYS_PAGES) * page};
}

// Launches have run when they return: every mark is reached, and there is nothing to gain from recording. A mark is the
// time at which it was made.
Status synchronize(Device&) { return {}; }
uint64_t mark(Device&) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count());
}
Result<bool> reached(Device&, uint64_t) { return true; }
Result<int64_t> since(Device& device, uint64_t earlier) { return static_cast<int64_t>(mark(device) - earlier); }
bool replay(Device&, uint64_t) { return false; }
void record(Device&, uint64_t) {}
Status end_record(Device&) { return {}; }
void forget_recorded(Device&) {}
// Ranks on CPUs share the host's memory: Communicator is the direct way.
Result<const PeerGroup*> join_peers(Device&, const PeerSetup&) { return nullptr; }
std::string identity(Device&) { return {}; }
std::string numerics(const Device& device) {
  return std::string("cpu ") + static_cast<const CpuDevice&>(device).kernels().name;
}
void* native_stream(Device&) { return nullptr; }

Format weight_format(Format asked) { return asked; }

Format activation_format(Format weight) {
  return is_block_format(weight) ? Format::kI8Block32 : Format::kF32;
}

int64_t scales_offset(Format format, int64_t rows, int64_t columns) {
  return round_up<int64_t>(rows * row_bytes(format, columns), 64);
}

int64_t tensor_bytes(Format format, int64_t rows, int64_t columns) {
  CHECK_GE(rows, 0);
  const int64_t data = scales_offset(format, rows, columns);
  if (format != Format::kI8Block32) return data;
  return data + rows * (columns / kBlock) * 2 * int64_t{sizeof(float)};
}

Tensor make_tensor(void* memory, Format format, int64_t rows, int64_t columns) {
  Tensor out = {.data = memory, .rows = rows, .columns = columns, .format = format};
  if (info(format).block_elements == 1) out.row_stride = columns;
  if (format == Format::kI8Block32) {
    out.scales = static_cast<uint8_t*>(memory) + scales_offset(format, rows, columns);
  }
  return out;
}

void pack_linear(Device& device, const PackArgs& args) {
  const Tensor& out = args.out;
  CHECK(out.layout == Layout::kPacked && out.data != nullptr);
  CHECK(args.first_row >= 0 && args.row_count >= 0);
  CHECK_LE(args.first_row + args.row_count, out.rows);
  CHECK(args.source_format != Format::kI8Block32 && args.source_format != Format::kI32);
  CHECK(args.source_format == out.format || !is_block_format(out.format));
  CHECK_EQ(out.columns % info(out.format).block_elements, 0);
  CHECK_EQ(out.columns % info(args.source_format).block_elements, 0);
  if (args.row_count == 0) return;
  const int64_t first = args.first_row / kPanelRows;
  const int64_t end = panel_count(args.first_row + args.row_count);
  const bool serial = args.row_count * out.columns < kSerialElements;
  run_shares(cpu(device), end - first, 1, serial, [&](Range share) {
    pack_panels(args, first + share.begin, first + share.end);
  });
}

// There is one way.
Status prepare(Device&, const PrepareArgs&) { return {}; }

void scatter(Device&, const ScatterArgs& args) {
  for (int i = 0; i < args.count; ++i) {
    const int32_t index = args.pairs[2 * i];
    CHECK(index >= 0 && index < args.size);
    args.to[index] = args.pairs[2 * i + 1];
  }
}

void gather(Device&, const GatherArgs& args) {
  const StepView& step = args.step;
  const SlotState& state = args.state;
  check_step(step);
  for (int r = 0; r < step.rows; ++r) {
    const int32_t slot = step.slots[r];
    CHECK(slot >= 0 && slot < state.slots);
    const int32_t given = args.first_position[r];
    int32_t position = given < 0 ? state.lengths[slot] - 1 : given;
    const int32_t count = step.query_begin[r + 1] - step.query_begin[r];
    CHECK(position >= 0 && count <= state.tokens_max - position);
    for (int32_t t = step.query_begin[r]; t < step.query_begin[r + 1]; ++t, ++position) {
      args.positions[t] = position;
      args.token_ids[t] = state.tokens[slot * int64_t{state.tokens_max} + position];
    }
  }
}

void store_tokens(Device&, const StoreTokensArgs& args) {
  const SlotState& state = args.state;
  for (int i = 0; i < args.count; ++i) {
    if (args.tokens[i] < 0) continue;
    const int32_t slot = args.slots[i];
    const int32_t position = args.positions[i];
    CHECK(slot >= 0 && slot < state.slots);
    CHECK(position >= 0 && position < state.tokens_max);
    state.tokens[slot * int64_t{state.tokens_max} + position] = args.tokens[i];
    state.lengths[slot] = std::max(state.lengths[slot], position + 1);
  }
}

void embed(Device& device, const EmbedArgs& args) {
  check_f32(args.out);
  CHECK_EQ(args.out.columns, args.table.columns);
  CHECK(args.table.format != Format::kI8Block32 && args.table.format != Format::kI32);
  const int64_t tokens = args.out.rows;
  run_shares(cpu(device), tokens, 1, tokens * args.out.columns < kSerialEmbedding,
             [&](Range share) { cpu(device).kernels().embed(args, share); });
}

void add_norm(Device& device, const AddNormArgs& args) {
  const int64_t tokens = args.out.rows;
  check_activation(args.out);
  check_f32(args.residual);
  CHECK_EQ(args.residual.rows, tokens);
  CHECK_EQ(args.residual.columns, args.out.columns);
  if (args.x.data != nullptr) {
    check_f32(args.x);
    CHECK_EQ(args.x.rows, tokens);
    CHECK_EQ(args.x.columns, args.out.columns);
  }
  CHECK(args.weight != nullptr);
  CHECK(args.sum == nullptr);
  run_shares(cpu(device), tokens, 1, tokens * args.out.columns < kSerialElements,
             [&](Range share) { cpu(device).kernels().add_norm(args, share); });
}

void linear(Device& device, const LinearArgs& args) {
  const int64_t tokens = args.x.rows;
  check_f32(args.out);
  check_activation(args.x);
  CHECK(args.weight.layout == Layout::kPacked);
  CHECK(args.x.format == activation_format(args.weight.format));
  CHECK_EQ(args.x.columns, args.weight.columns);
  CHECK_EQ(args.out.columns, args.weight.rows);
  CHECK_EQ(args.out.rows, tokens);
  if (tokens == 0) return;
  CpuDevice& rank = cpu(device);
  const int64_t panels = panel_count(args.weight.rows);
  const bool serial = args.weight.rows * args.weight.columns * tokens < kSerialProducts;
  const int64_t blocks = ceil_div(tokens, kTokenBlock);
  if (panels < 2 * rank.team().size() && tokens >= 16) {
    if (serial || blocks >= kBlocksPerThread * rank.team().size()) {
      run_shares(rank, tokens, kTokenBlock, serial,
                 [&](Range share) { rank.kernels().linear(args, {0, panels}, share); });
      return;
    }
    const int64_t parts = std::min(ceil_div(kBlocksPerThread * rank.team().size(), blocks), panels);
    rank.team().run(blocks * parts, [&](int64_t piece, int) {
      const int64_t block = piece / parts;
      const int64_t part = piece % parts;
      rank.kernels().linear(args, {panels * part / parts, panels * (part + 1) / parts},
                            {block * kTokenBlock, std::min((block + 1) * kTokenBlock, tokens)});
    });
  } else {
    run_shares(rank, panels, 1, serial,
               [&](Range share) { rank.kernels().linear(args, share, {0, tokens}); });
  }
}

void rope_append(Device& device, const RopeAppendArgs& args) {
  const KvPages& pages = args.pages;
  check_f32(args.qkv);
  check_step(args.step);
  check_pages(pages);
  CHECK_EQ(args.qkv.columns, (args.q_heads + 2 * int64_t{pages.kv_heads}) * pages.head_dim);
  CHECK_EQ(args.qkv.rows, args.step.tokens);
  CHECK(args.rotary_dim >= 0 && args.rotary_dim <= pages.head_dim && args.rotary_dim % 2 == 0);
  CHECK(args.step.positions != nullptr || args.step.tokens == 0);
  const int64_t tokens = args.step.tokens;
  run_shares(cpu(device), tokens, 1, tokens * args.qkv.columns < kSerialElements,
             [&](Range share) { cpu(device).kernels().rope_append(args, share); });
}

void silu_mul(Device& device, const SiluMulArgs& args) {
  const int64_t tokens = args.out.rows;
  check_activation(args.out);
  check_f32(args.gate_up);
  CHECK_EQ(args.gate_up.rows, tokens);
  CHECK_EQ(args.gate_up.columns, 2 * args.out.columns);
  run_shares(cpu(device), tokens, 1, tokens * args.out.columns < kSerialElements,
             [&](Range share) { cpu(device).kernels().silu_mul(args, share); });
}

void gated_linear(Device& device, const GatedLinearArgs& args) {
  linear(device, {.out = args.gate_up, .x = args.x, .weight = args.weight, .bias = args.bias});
  silu_mul(device, {.out = args.out, .gate_up = args.gate_up});
}

void attention(Device& device, const AttentionArgs& args) {
  if (args.append != nullptr) rope_append(device, *args.append);
  launch_attention(device, args);
}

void gather_rows(Device&, const GatherRowsArgs& args) {
  CHECK(args.out.format == args.x.format);
  CHECK_EQ(args.out.columns, args.x.columns);
  CHECK_LE(args.count, args.out.rows);
  check_activation(args.out);
  check_activation(args.x);
  const bool blocks = args.x.format == Format::kI8Block32;
  const int64_t columns = args.x.columns;
  const int64_t bytes = row_bytes(args.x.format, columns);
  const int64_t in_stride = blocks ? bytes : args.x.row_stride * int64_t{sizeof(float)};
  const int64_t out_stride = blocks ? bytes : args.out.row_stride * int64_t{sizeof(float)};
  const int64_t scale_bytes = columns / kBlock * 2 * int64_t{sizeof(float)};
  if (args.zeroed != nullptr) std::fill_n(args.zeroed, args.count, 0);
  for (int i = 0; i < args.count; ++i) {
    const int64_t row = args.rows[i];
    CHECK(row >= 0 && row < args.x.rows);
    std::memcpy(static_cast<uint8_t*>(args.out.data) + i * out_stride,
                static_cast<const uint8_t*>(args.x.data) + row * in_stride,
                static_cast<size_t>(bytes));
    if (!blocks) continue;
    std::memcpy(static_cast<uint8_t*>(args.out.scales) + i * scale_bytes,
                static_cast<const uint8_t*>(args.x.scales) + row * scale_bytes,
                static_cast<size_t>(scale_bytes));
  }
}

void sample(Device& device, const SampleArgs& args) {
  CHECK(args.vocabulary > 0 && args.vocabulary <= kSampleVocabularyMax);
  CHECK(args.rows >= 0);
  if (args.rows == 0) return;
  CHECK(args.out != nullptr && args.tokens != nullptr && args.logits != nullptr);
  CHECK(args.row != nullptr && args.state != nullptr);
  CpuDevice& rank = cpu(device);
  rank.team().run(args.rows, [&](int64_t row, int thread) {
    sample_row(args, static_cast<int>(row), rank.kernels(), rank.sample_scratch(thread));
  });
}

void copy_blocks(Device&, const CopyBlocksArgs& args) {
  const KvPages& pages = args.pages;
  const int64_t elements = int64_t{2} * pages.kv_heads * pages.block_tokens * pages.head_dim;
  const int64_t bytes = elements * element_bytes(pages.format);
  auto* data = static_cast<uint8_t*>(pages.data);
  for (int i = 0; i < args.count; ++i) {
    const int64_t from = args.pairs[2 * i];
    const int64_t to = args.pairs[2 * i + 1];
    CHECK(from >= 0 && from < pages.blocks && to >= 0 && to < pages.blocks && from != to);
    std::memcpy(data + to * bytes, data + from * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace

const Ops& cpu_ops() {
  static constexpr Ops kOps = {
      .name = "cpu",
      .stream_format = Format::kF32,
      .kv_format = Format::kF16,
      .logit_rows_max = 32,
      .records = false,
      .open = CpuDevice::open,
      .allocate = allocate,
      .release = release,
      .memory = memory,
      .allocate_host = allocate,
      .release_host = release,
      .copy_to_device = copy,
      .copy_to_host = copy,
      .mark = mark,
      .reached = reached,
      .since = since,
      .synchronize = synchronize,
      .replay = replay,
      .record = record,
      .end_record = end_record,
      .forget_recorded = forget_recorded,
      .join_peers = join_peers,
      .identity = identity,
      .numerics = numerics,
      .native_stream = native_stream,
      .weight_format = weight_format,
      .activation_format = activation_format,
      .tensor_bytes = tensor_bytes,
      .make_tensor = make_tensor,
      .linear_bytes = linear_bytes,
      .pack_linear = pack_linear,
      .prepare = prepare,
      .scatter = scatter,
      .gather = gather,
      .store_tokens = store_tokens,
      .embed = embed,
      .add_norm = add_norm,
      .linear = linear,
      .gated_linear = gated_linear,
      .rope_append = rope_append,
      .attention = attention,
      .silu_mul = silu_mul,
      .gather_rows = gather_rows,
      .sample = sample,
      .copy_blocks = copy_blocks,
      .peer_sum = nullptr,
      .peer_meet = nullptr,
  };
  return kOps;
}

}  // namespace skein
