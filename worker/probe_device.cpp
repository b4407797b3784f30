#include "worker/probe_device.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <optional>
#include <span>
#include <thread>

#include "base/check.h"
#include "base/half.h"
#include "worker/model_weights.h"

namespace skein {
namespace {

constexpr int64_t kRotatedBytes = int64_t{256} << 20;  // weights take turns, so that no cache holds them
constexpr int64_t kReadBytes = int64_t{64} << 20;      // of each thread
constexpr int kReadRounds = 5;
constexpr int64_t kNumbers = 1 << 20;

struct Shape {
  int64_t outputs;
  int64_t inputs;
};
struct DecodeShape {
  int rows;
  int context;
};

// What is measured on a kind of device: enough of each axis for the cost model to interpolate.
struct Grid {
  std::span<const Shape> weights;
  std::span<const int> tokens;
  std::span<const DecodeShape> decodes;
  std::span<const int> prompts;
  int q_heads, kv_heads, head_dim, block_tokens;
  int64_t hidden;
  int norm_tokens;
};

constexpr Shape kGpuWeights[] = {{1024, 4096}, {4096, 4096}, {4096, 14336}, {28672, 4096}, {128256, 4096}};
constexpr int kGpuTokens[] = {1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
constexpr DecodeShape kGpuDecodes[] = {{1, 1024}, {1, 8192}, {16, 2048}, {64, 2048}, {128, 4096}};
constexpr int kGpuPrompts[] = {256, 1024, 4096, 8192};
constexpr Grid kGpuGrid{kGpuWeights, kGpuTokens, kGpuDecodes, kGpuPrompts, 32, 8, 128, 64, 4096, 2048};

constexpr Shape kCpuWeights[] = {{512, 512}, {1536, 576}, {2048, 2048}, {8192, 2048}};
constexpr int kCpuTokens[] = {1, 2, 4, 8, 16, 64, 256};
constexpr DecodeShape kCpuDecodes[] = {{1, 256}, {1, 2048}, {8, 512}, {16, 2048}};
constexpr int kCpuPrompts[] = {32, 128, 512};
constexpr Grid kCpuGrid{kCpuWeights, kCpuTokens, kCpuDecodes, kCpuPrompts, 16, 4, 64, 16, 2048, 256};

// Numbers in [-1, 1), the same on every run.
std::vector<float> numbers(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

std::vector<uint16_t> bf16_of(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(f32_to_bf16(value));
  return halves;
}

// Bytes a second that all threads together read, each from memory of its own.
double host_read_rate(int threads) {
  std::vector<std::vector<uint64_t>> parts(static_cast<size_t>(threads));
  std::atomic<uint64_t> kept = 0;  // so that nothing is optimised away
  double best = 0;
  for (int round = 0; round < kReadRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    {
      std::vector<std::jthread> team;
      for (std::vector<uint64_t>& part : parts) {
        team.emplace_back([&part, &kept] {
          if (part.empty()) part.assign(kReadBytes / sizeof(uint64_t), 1);
          std::array<uint64_t, 8> sums{};
          for (size_t i = 0; i < part.size(); i += sums.size()) {
            for (size_t lane = 0; lane < sums.size(); ++lane) sums[lane] += part[i + lane];
          }
          for (const uint64_t sum : sums) kept += sum;
        });
      }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    // The first round fills the memory.
    if (round > 0) best = std::max(best, static_cast<double>(threads * kReadBytes) / seconds.count());
  }
  return best;
}

class DeviceProbe {
 public:
  DeviceProbe(const Ops& ops, Device& device, ProbeTimer& timer, const Grid& grid)
      : ops_(ops), device_(device), timer_(timer), grid_(grid), weight_format_(ops.weight_format(Format::kBF16)) {
    CHECK_EQ(info(ops.kv_format).block_bytes, 2);
  }

  Result<std::vector<ProbeSample>> run() {
    RETURN_IF_ERROR(measure_norm(1));
    RETURN_IF_ERROR(measure_norm(grid_.norm_tokens));
    for (const Shape& shape : grid_.weights) RETURN_IF_ERROR(measure_products(shape));
    for (const DecodeShape& shape : grid_.decodes) RETURN_IF_ERROR(measure_decode(shape));
    for (const int tokens : grid_.prompts) RETURN_IF_ERROR(measure_prefill(tokens));
    return std::move(samples_);
  }

 private:
  double stream_bytes() const { return info(ops_.stream_format).block_bytes; }

  // An activation full of numbers.
  Result<Tensor> activation(DeviceArena& arena, Format format, int64_t rows, int64_t columns) {
    ASSIGN_OR_RETURN(void* memory, arena.allocate(ops_.tensor_bytes(format, rows, columns)));
    if (format == Format::kF32) fill(memory, rows * columns, floats_);
    else fill(memory, rows * columns, halves_);
    return ops_.make_tensor(memory, format, rows, columns);
  }

  // `count` elements, the same few again and again.
  template <typename Element>
  void fill(void* memory, int64_t count, const std::vector<Element>& elements) {
    for (int64_t begin = 0; begin < count; begin += kNumbers) {
      ops_.copy_to_device(device_, static_cast<Element*>(memory) + begin, elements.data(),
                          std::min(count - begin, kNumbers) * static_cast<int64_t>(sizeof(Element)));
    }
  }

  Result<Tensor> packed_weight(DeviceArena& arena, const Shape& shape) {
    ASSIGN_OR_RETURN(void* memory, arena.allocate(ops_.linear_bytes(weight_format_, shape.outputs, shape.inputs)));
    const Tensor weight{.data = memory, .rows = shape.outputs, .columns = shape.inputs, .format = weight_format_,
                        .layout = Layout::kPacked, .row_stride = shape.inputs};
    const std::vector<const void*> rows(static_cast<size_t>(shape.outputs), halves_.data());
    ops_.pack_linear(device_, {.out = weight, .first_row = 0, .row_count = shape.outputs, .source_rows = rows.data(),
                               .source_format = Format::kBF16});
    return weight;
  }

  Status measure_products(const Shape& shape) {
    DeviceArena arena(ops_, device_);
    const int64_t weight_bytes = ops_.linear_bytes(weight_format_, shape.outputs, shape.inputs);
    std::vector<Tensor> weights;
    for (int64_t bytes = 0; bytes < kRotatedBytes || weights.empty(); bytes += weight_bytes) {
      ASSIGN_OR_RETURN(const Tensor weight, packed_weight(arena, shape));
      weights.push_back(weight);
    }
    const int64_t most = grid_.tokens.back();
    ASSIGN_OR_RETURN(const Tensor x, activation(arena, ops_.activation_format(weight_format_), most, shape.inputs));
    ASSIGN_OR_RETURN(const Tensor out, activation(arena, ops_.stream_format, most, shape.outputs));
    size_t turn = 0;
    for (const int tokens : grid_.tokens) {
      LinearArgs args{.out = out, .x = x, .weight = weights[0]};
      args.out.rows = args.x.rows = tokens;
      RETURN_IF_ERROR(ops_.prepare(device_, {.products = &args, .count = 1}));
      ASSIGN_OR_RETURN(const double us, timer_.time_us([&] {
        args.weight = weights[turn++ % weights.size()];
        ops_.linear(device_, args);
      }));
      const double weight = static_cast<double>(shape.outputs * shape.inputs) * info(weight_format_).block_bytes;
      const double streamed = static_cast<double>(shape.outputs + shape.inputs) * stream_bytes();
      samples_.push_back({.what = "product", .tokens = double(tokens), .size = weight,
                          .bytes = weight + tokens * streamed,
                          .flops = 2.0 * static_cast<double>(shape.outputs * shape.inputs) * tokens, .us = us});
    }
    return {};
  }

  Status measure_norm(int tokens) {
    DeviceArena arena(ops_, device_);
    ASSIGN_OR_RETURN(const Tensor residual, activation(arena, Format::kF32, tokens, grid_.hidden));
    ASSIGN_OR_RETURN(const Tensor x, activation(arena, ops_.stream_format, tokens, grid_.hidden));
    ASSIGN_OR_RETURN(const Tensor out, activation(arena, ops_.activation_format(weight_format_), tokens, grid_.hidden));
    ASSIGN_OR_RETURN(const float* weight, arena.upload(numbers(grid_.hidden)));
    const AddNormArgs args{.out = out, .residual = residual, .x = x, .weight = weight, .epsilon = 1e-5f};
    ASSIGN_OR_RETURN(const double us, timer_.time_us([&] { ops_.add_norm(device_, args); }));
    samples_.push_back({.what = "norm", .tokens = double(tokens),
                        .bytes = tokens * static_cast<double>(grid_.hidden) * (8 + 2 * stream_bytes()), .us = us});
    return {};
  }

  // `rows` sequences of `context` tokens each, the last `queries` of which ask.
  struct Attention {
    AttentionArgs args;
    std::vector<int32_t> query_begin;
    std::vector<void*> pages;  // take turns, too
  };
  Status prepare_attention(DeviceArena& arena, int rows, int context, int queries, Attention* attention) {
    const int blocks = (context + grid_.block_tokens - 1) / grid_.block_tokens;
    std::vector<int32_t> positions, slots, table;
    for (int row = 0; row < rows; ++row) {
      attention->query_begin.push_back(row * queries);
      slots.push_back(row);
      for (int query = 0; query < queries; ++query) positions.push_back(context - queries + query);
      for (int block = 0; block < blocks; ++block) table.push_back(row * blocks + block);
    }
    attention->query_begin.push_back(rows * queries);
    const int64_t columns = int64_t{grid_.q_heads} * grid_.head_dim;
    const int64_t keys = int64_t{rows} * blocks * grid_.block_tokens * grid_.kv_heads * 2;
    ASSIGN_OR_RETURN(const Tensor q, activation(arena, ops_.stream_format, int64_t{rows} * queries, columns));
    const Format out_format = ops_.activation_format(weight_format_);
    ASSIGN_OR_RETURN(const Tensor out, activation(arena, out_format, int64_t{rows} * queries, columns));
    const int64_t bytes = keys * row_bytes(ops_.kv_format, grid_.head_dim);
    for (int64_t all = 0; all == 0 || (queries == 1 && all < kRotatedBytes); all += bytes) {
      ASSIGN_OR_RETURN(void* pages, arena.allocate(bytes));
      fill(pages, keys * grid_.head_dim, halves_);  // as float16, too, these are numbers
      attention->pages.push_back(pages);
    }
    StepView step{.rows = rows, .tokens = rows * queries, .decode_rows = queries == 1 ? rows : 0,
                  .query_begin_host = attention->query_begin.data()};
    ASSIGN_OR_RETURN(step.positions, upload(arena, positions));
    ASSIGN_OR_RETURN(step.query_begin, upload(arena, attention->query_begin));
    ASSIGN_OR_RETURN(step.slots, upload(arena, slots));
    ASSIGN_OR_RETURN(const int32_t* block_table, upload(arena, table));
    attention->args = {.out = out, .q = q, .step = step,
                       .pages = {.data = attention->pages[0], .format = ops_.kv_format, .blocks = rows * blocks,
                                 .kv_heads = grid_.kv_heads, .block_tokens = grid_.block_tokens,
                                 .head_dim = grid_.head_dim, .block_table = block_table, .blocks_per_slot = blocks},
                       .q_heads = grid_.q_heads, .group_size = grid_.q_heads / grid_.kv_heads,
                       .scale = static_cast<float>(1 / std::sqrt(double(grid_.head_dim)))};
    return {};
  }

  Result<const int32_t*> upload(DeviceArena& arena, const std::vector<int32_t>& values) {
    ASSIGN_OR_RETURN(int32_t* data, arena.allocate_array<int32_t>(static_cast<int64_t>(values.size())));
    ops_.copy_to_device(device_, data, values.data(), static_cast<int64_t>(values.size() * sizeof(int32_t)));
    return static_cast<const int32_t*>(data);
  }

  Status measure_decode(const DecodeShape& shape) {
    DeviceArena arena(ops_, device_);
    Attention attention;
    RETURN_IF_ERROR(prepare_attention(arena, shape.rows, shape.context, 1, &attention));
    size_t turn = 0;
    ASSIGN_OR_RETURN(const double us, timer_.time_us([&] {
      attention.args.pages.data = attention.pages[turn++ % attention.pages.size()];
      ops_.attention(device_, attention.args);
    }));
    const double bytes = double(shape.rows) * shape.context * 2 * grid_.kv_heads *
                         static_cast<double>(row_bytes(ops_.kv_format, grid_.head_dim));
    samples_.push_back({.what = "decode_attention", .tokens = double(shape.rows), .size = bytes, .bytes = bytes, .us = us});
    return {};
  }

  Status measure_prefill(int tokens) {
    DeviceArena arena(ops_, device_);
    Attention attention;
    RETURN_IF_ERROR(prepare_attention(arena, 1, tokens, tokens, &attention));
    ASSIGN_OR_RETURN(const double us, timer_.time_us([&] { ops_.attention(device_, attention.args); }));
    const double pairs = tokens * (tokens + 1.0) / 2;
    samples_.push_back({.what = "prefill_attention", .tokens = double(tokens),
                        .flops = 4.0 * grid_.q_heads * grid_.head_dim * pairs, .us = us});
    return {};
  }

  const Ops& ops_;
  Device& device_;
  ProbeTimer& timer_;
  const Grid& grid_;
  const Format weight_format_;
  const std::vector<float> floats_ = numbers(kNumbers);
  const std::vector<uint16_t> halves_ = bf16_of(floats_);
  std::vector<ProbeSample> samples_;
};

}  // namespace

Result<std::vector<ProbeSample>> probe_device(const ProbeSpec& spec, const Ops& ops, Device& device,
                                              ProbeTimer& timer) {
  const bool gpu = spec.device == "cuda";
  ASSIGN_OR_RETURN(std::vector<ProbeSample> samples, DeviceProbe(ops, device, timer, gpu ? kGpuGrid : kCpuGrid).run());
  if (!gpu) {
    const double bytes = static_cast<double>(spec.threads * kReadBytes);
    samples.push_back({.what = "read", .bytes = bytes, .us = bytes / host_read_rate(spec.threads) * 1e6});
  }
  return samples;
}

}  // namespace skein
