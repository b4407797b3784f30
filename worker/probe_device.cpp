#include "worker/probe_device.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <semaphore>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "worker/model_weights.h"
#include "worker/probe_caches.h"
#include "worker/probe_memory.h"
#include "worker/probe_tensors.h"

namespace skein {
namespace {

constexpr int64_t kTurnBytes = int64_t{256} << 20;     // of weights and pages that take turns, beyond most caches
constexpr int64_t kTurnBytesMax = int64_t{1} << 30;
constexpr int kTimesLastCache = 4;
constexpr int kPasses = 3;  // over all of it on cores, whose memory others may keep busy for a second or two

using Clock = std::chrono::steady_clock;
using Us = std::chrono::duration<double, std::micro>;

struct DecodeShape {
  int rows;
  int context;
};

// What is measured on a kind of device: enough of each axis for the cost model to interpolate.
struct Grid {
  std::span<const ProductShape> weights;
  std::span<const int> tokens;
  std::span<const int> cached_tokens;    // of those, with weights that caches hold, too
  std::span<const DecodeShape> decodes;  // of GPUs; cores: measure_group_decodes()
  std::span<const int> prompts;
  int q_heads, kv_heads, head_dim, block_tokens;
  int64_t hidden;
  int row_tokens;                   // of norms
  std::span<const Format> formats;  // of weights
  Format row_format;                // that norms and SwiGLU write
  bool own_launches;                // cores: rotation, SwiGLU and sampling count by themselves
};

constexpr ProductShape kGpuWeights[] = {{1024, 4096}, {4096, 4096}, {4096, 14336}, {28672, 4096}, {128256, 4096}};
constexpr int kGpuTokens[] = {1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
constexpr DecodeShape kGpuDecodes[] = {{1, 1024}, {1, 8192}, {16, 2048}, {64, 2048}, {128, 4096}};
constexpr int kGpuPrompts[] = {256, 1024, 4096, 8192};
constexpr Format kGpuFormats[] = {Format::kBF16};
constexpr Grid kGpuGrid{kGpuWeights, kGpuTokens, {}, kGpuDecodes, kGpuPrompts, 32, 8, 128, 64, 4096, 2048,
                        kGpuFormats, Format::kBF16, false};

constexpr ProductShape kHalfWeights[] = {{768, 576}, {1024, 2304}};
constexpr int kHalfTokens[] = {1, 2, 4, 16, 64};
constexpr ProductShape kCpuWeights[] = {{512, 576}, {12288, 576}, {256, 2304}, {4096, 2304}};  // of two inputs
constexpr int kCpuTokens[] = {1, 2, 4, 8, 16, 64, 256};
constexpr int kCachedTokens[] = {1, 2, 4, 8, 16, 64};
constexpr int kCpuContexts[] = {48, 160, 544, 2080};
constexpr int kCpuRowsPerThread = 8;
constexpr int kCpuRowsMax = 64;
constexpr int kCpuGroups[] = {1, 2, 3, 4, 8};
constexpr int kCpuPrompts[] = {32, 128, 512};
constexpr int kCpuRowTokens[] = {1, 4, 16, 64, 256};
constexpr int64_t kCpuRowColumns[] = {512, 4096};
constexpr int kCpuRopeHeads[] = {4, 32};  // of queries
constexpr Format kCpuFormats[] = {Format::kBF16, Format::kF32,  Format::kF16,
                                  Format::kQ8_0, Format::kQ4_0, Format::kQ4_1};
constexpr Grid kCpuGrid{kCpuWeights, kCpuTokens, kCachedTokens, {}, kCpuPrompts, 16, 4, 64, 16, 2048, 256,
                        kCpuFormats, Format::kI8Block32, true};
constexpr ProductShape kWokenWeight = {1536, 576};
constexpr int kWokenLaunches = 32;  // more than it takes for all threads to be there
constexpr int kWokenRounds = 61;
constexpr auto kAsleep = std::chrono::milliseconds(2);  // no thread of a device spins for so long
constexpr int64_t kVocabulary = 32768;
constexpr int kSampleRowsPerThread = 2;
constexpr int64_t kInputsMin = 32;
constexpr int64_t kProductsOfAll = int64_t{1} << 17;

class DeviceProbe {
 public:
  DeviceProbe(const Ops& ops, Device& device, ProbeTimer& timer, const Grid& grid, int threads,
              ProbeTensors& tensors)
      : ops_(ops), device_(device), timer_(timer), grid_(grid), threads_(threads), tensors_(tensors) {
    CHECK_EQ(info(ops.kv_format).block_bytes, 2);
  }

  Result<std::vector<ProbeSample>> run() {
    if (grid_.own_launches) {
      ASSIGN_OR_RETURN(samples_, probe_caches(ops_, device_, tensors_, timer_));
      RETURN_IF_ERROR(measure_rows());
    } else {
      RETURN_IF_ERROR(measure_norm(1, grid_.hidden));
      RETURN_IF_ERROR(measure_norm(grid_.row_tokens, grid_.hidden));
    }
    for (const Format format : grid_.formats) {
      for (const ProductShape& shape : grid_.weights) {
        RETURN_IF_ERROR(
            measure_products("product", ops_.weight_format(format), shape, grid_.tokens, grid_.cached_tokens));
      }
    }
    for (const DecodeShape& shape : grid_.decodes) RETURN_IF_ERROR(measure_decode(shape, grid_.q_heads));
    for (const int tokens : grid_.prompts) RETURN_IF_ERROR(measure_prefill(tokens));
    if (grid_.own_launches) {
      RETURN_IF_ERROR(measure_group_decodes());
      RETURN_IF_ERROR(measure_sampling());
    }
    return std::exchange(samples_, {});
  }

  // On a device of half of the cores, while the others wait, and while they do the same.
  Result<std::vector<ProbeSample>> run_half_products(Device& others) {
    for (const Format format : grid_.formats) {
      for (const ProductShape& shape : kHalfWeights) {
        RETURN_IF_ERROR(
            measure_products("half_alone", ops_.weight_format(format), shape, kHalfTokens, {}, &others));
      }
    }
    return std::exchange(samples_, {});
  }

  // What a chain of launches takes longer than the next one where the device's threads and this one slept until a
  // message came, while `others` computed.
  Result<std::vector<ProbeSample>> run_woken(int others) {
    DeviceArena arena(ops_, device_);
    const Format format = ops_.weight_format(Format::kBF16);
    ASSIGN_OR_RETURN(const Tensor weight, tensors_.packed_weight(arena, format, kWokenWeight));
    const Format input = ops_.activation_format(format);
    ASSIGN_OR_RETURN(const Tensor x, tensors_.activation(arena, input, 1, kWokenWeight.inputs));
    ASSIGN_OR_RETURN(const Tensor out, tensors_.activation(arena, ops_.stream_format, 1, kWokenWeight.outputs));
    const auto chain_end = [&] {
      for (int i = 0; i < kWokenLaunches; ++i) ops_.linear(device_, {.out = out, .x = x, .weight = weight});
      return Clock::now();
    };
    std::vector<double> longer;
    for (int round = 0; round < kWokenRounds; ++round) {
      std::binary_semaphore message{0};
      Clock::time_point sent;
      const auto until = Clock::now() + kAsleep;
      const auto compute = [&] {
        while (Clock::now() < until) continue;
      };
      std::vector<std::jthread> busy;
      for (int other = 1; other < others; ++other) busy.emplace_back(compute);
      busy.emplace_back([&] {
        compute();
        sent = Clock::now();
        message.release();
      });
      message.acquire();
      const Clock::time_point woken = chain_end();
      const Clock::time_point awake = chain_end();
      longer.push_back(Us((woken - sent) - (awake - woken)).count());
    }
    std::ranges::sort(longer);
    samples_.push_back({.what = "woken", .us = std::max(longer[longer.size() / 2], 0.0)});
    return std::exchange(samples_, {});
  }

 private:
  double stream_bytes() const { return info(ops_.stream_format).block_bytes; }

  // What cores read was just written, by other cores, too: `write` goes before each launch, and its time is taken off.
  Result<double> time_behind(const std::function<void()>& write, const std::function<void()>& launch) {
    if (write == nullptr) return timer_.time_us(launch);
    ASSIGN_OR_RETURN(const double writing_us, timer_.time_us(write));
    ASSIGN_OR_RETURN(const double both_us, timer_.time_us([&] {
      write();
      launch();
    }));
    return std::max(both_us - writing_us, both_us / 8);
  }

  // The product that writes `out`, in a step, with as few inputs as all cores take part in.
  Result<std::function<void()>> writer_of(DeviceArena& arena, const Tensor& out) {
    if (!grid_.own_launches) return std::function<void()>();
    const Format format = ops_.weight_format(Format::kBF16);
    const int64_t inputs = kInputsMin * ceil_div(kProductsOfAll, out.rows * out.columns * kInputsMin);
    ASSIGN_OR_RETURN(const Tensor weight, tensors_.packed_weight(arena, format, {out.columns, inputs}));
    ASSIGN_OR_RETURN(const Tensor x, tensors_.activation(arena, ops_.activation_format(format), out.rows, inputs));
    return std::function<void()>([=, this] { ops_.linear(device_, {.out = out, .x = x, .weight = weight}); });
  }

  // While another device does such products, too.
  Result<double> beside(Device& other, LinearArgs args, std::span<const Tensor> weights,
                        const std::function<Result<double>()>& time) {
    DeviceArena arena(ops_, device_);
    ASSIGN_OR_RETURN(args.x, tensors_.activation(arena, args.x.format, args.x.rows, args.x.columns));
    ASSIGN_OR_RETURN(args.out, tensors_.activation(arena, args.out.format, args.out.rows, args.out.columns));
    const std::jthread busy([&](const std::stop_token& stop) {
      for (size_t turn = 0; !stop.stop_requested(); ++turn) {
        args.weight = weights[turn % weights.size()];
        ops_.linear(other, args);
      }
    });
    return time();
  }

  // The newest sample under another name.
  void add_again(const char* what, double us) {
    ProbeSample sample = samples_.back();
    sample.what = what;
    sample.us = us;
    samples_.push_back(std::move(sample));
  }

  Status measure_products(const char* what, Format format, const ProductShape& shape, std::span<const int> all_tokens,
                          std::span<const int> cached_tokens, Device* others = nullptr) {
    DeviceArena arena(ops_, device_);
    ASSIGN_OR_RETURN(const std::vector<Tensor> weights, tensors_.weights_for_turns(format, shape));
    const int64_t most = all_tokens.back();
    ASSIGN_OR_RETURN(const Tensor x, tensors_.activation(arena, ops_.activation_format(format), most, shape.inputs));
    ASSIGN_OR_RETURN(const Tensor out, tensors_.activation(arena, ops_.stream_format, most, shape.outputs));
    Tensor residual;
    const float* norm_weight = nullptr;
    if (grid_.own_launches) {
      ASSIGN_OR_RETURN(residual, tensors_.activation(arena, Format::kF32, most, shape.inputs));
      ASSIGN_OR_RETURN(norm_weight, tensors_.norm_weight(arena, shape.inputs));
    }
    const size_t mine = others == nullptr ? weights.size() : weights.size() / 2;  // nobody finds the others' in a cache
    size_t turn = 0;
    for (const int tokens : all_tokens) {
      LinearArgs args{.out = out, .x = x, .weight = weights[0]};
      args.out.rows = args.x.rows = residual.rows = tokens;
      std::function<void()> write_x;
      if (norm_weight != nullptr) {
        write_x = [&] {
          ops_.add_norm(device_,
                        {.out = args.x, .residual = residual, .x = {}, .weight = norm_weight, .epsilon = 1e-5f});
        };
      }
      const PreparedProduct product{.linear = args, .gated = {}};
      RETURN_IF_ERROR(ops_.prepare(device_, {.products = &product, .count = 1}));
      const auto multiply = [&](size_t count) {
        args.weight = weights[turn++ % count];
        ops_.linear(device_, args);
      };
      const auto time_product = [&](size_t count) { return time_behind(write_x, [&, count] { multiply(count); }); };
      ASSIGN_OR_RETURN(const double us, time_product(mine));
      const double weight = static_cast<double>(shape.outputs * shape.inputs) * info(format).block_bytes /
                            info(format).block_elements;
      const double streamed = static_cast<double>(shape.outputs + shape.inputs) * stream_bytes();
      samples_.push_back({.what = what, .format = std::string(info(format).name), .tokens = double(tokens),
                          .inputs = grid_.own_launches ? double(shape.inputs) : 0,
                          .size = weight, .bytes = weight + tokens * streamed,
                          .flops = 2.0 * static_cast<double>(shape.outputs * shape.inputs) * tokens, .us = us});
      if (others != nullptr) {
        ASSIGN_OR_RETURN(const double beside_us,
                         beside(*others, args, std::span(weights).subspan(mine), [&] { return time_product(mine); }));
        add_again("half_beside", beside_us);
      }
      if (std::ranges::find(cached_tokens, tokens) == cached_tokens.end()) continue;
      const int64_t weight_bytes = ops_.linear_bytes(format, shape.outputs, shape.inputs);
      const size_t few = count_with(kCachedBytes, weight_bytes, weights.size());
      for (size_t i = 0; i < kWarmTurns * few; ++i) multiply(few);
      ASSIGN_OR_RETURN(const double cached_us, time_product(few));
      add_again("cached_product", cached_us);
    }
    return {};
  }

  Status measure_norm(int tokens, int64_t columns) {
    DeviceArena arena(ops_, device_);
    ASSIGN_OR_RETURN(const Tensor residual, tensors_.activation(arena, Format::kF32, tokens, columns));
    ASSIGN_OR_RETURN(const Tensor x, tensors_.activation(arena, ops_.stream_format, tokens, columns));
    ASSIGN_OR_RETURN(const Tensor out, tensors_.activation(arena, grid_.row_format, tokens, columns));
    ASSIGN_OR_RETURN(const float* weight, tensors_.norm_weight(arena, columns));
    const AddNormArgs args{.out = out, .residual = residual, .x = x, .weight = weight, .epsilon = 1e-5f};
    ASSIGN_OR_RETURN(const std::function<void()> write_x, writer_of(arena, x));
    ASSIGN_OR_RETURN(const double us, time_behind(write_x, [&] { ops_.add_norm(device_, args); }));
    samples_.push_back({.what = "norm", .tokens = double(tokens),
                        .bytes = tokens * static_cast<double>(columns) * (8 + 2 * stream_bytes()), .us = us});
    return {};
  }

  // Few rows occupy few cores, and a launch takes time of its own.
  Status measure_rows() {
    const auto of_width = [&] { samples_.back().size = samples_.back().bytes / samples_.back().tokens; };
    for (const int tokens : kCpuRowTokens) {
      for (const int64_t columns : kCpuRowColumns) {
        RETURN_IF_ERROR(measure_norm(tokens, columns));
        of_width();
        RETURN_IF_ERROR(measure_gate(tokens, columns));
        of_width();
      }
      for (const int heads : kCpuRopeHeads) {
        RETURN_IF_ERROR(measure_rope(tokens, heads));
        of_width();
      }
    }
    return {};
  }

  // `rows` sequences of `context` tokens each, the last `queries` of which ask.
  struct Attention {
    AttentionArgs args;
    std::vector<int32_t> query_begin;
    std::vector<void*> pages;  // take turns, too
  };
  Status prepare_attention(DeviceArena& arena, int rows, int context, int queries, int q_heads, Attention* attention) {
    const int blocks = (context + grid_.block_tokens - 1) / grid_.block_tokens;
    std::vector<int32_t> positions, slots, table;
    for (int row = 0; row < rows; ++row) {
      attention->query_begin.push_back(row * queries);
      slots.push_back(row);
      for (int query = 0; query < queries; ++query) positions.push_back(context - queries + query);
      for (int block = 0; block < blocks; ++block) table.push_back(row * blocks + block);
    }
    attention->query_begin.push_back(rows * queries);
    const int64_t columns = int64_t{q_heads} * grid_.head_dim;
    const int64_t keys = int64_t{rows} * blocks * grid_.block_tokens * grid_.kv_heads * 2;
    ASSIGN_OR_RETURN(const Tensor q, tensors_.activation(arena, ops_.stream_format, int64_t{rows} * queries, columns));
    ASSIGN_OR_RETURN(const Tensor out, tensors_.activation(arena, grid_.row_format, int64_t{rows} * queries, columns));
    const int64_t bytes = keys * row_bytes(ops_.kv_format, grid_.head_dim);
    for (int64_t all = 0; all == 0 || (queries == 1 && all < kTurnBytes); all += bytes) {
      ASSIGN_OR_RETURN(void* pages, arena.allocate(bytes));
      tensors_.fill_pages(pages, keys * grid_.head_dim);
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
                       .q_heads = q_heads, .group_size = q_heads / grid_.kv_heads,
                       .scale = static_cast<float>(1 / std::sqrt(double(grid_.head_dim)))};
    return {};
  }

  Result<const int32_t*> upload(DeviceArena& arena, const std::vector<int32_t>& values) {
    ASSIGN_OR_RETURN(int32_t* data, arena.allocate_array<int32_t>(static_cast<int64_t>(values.size())));
    copy_to_device(data, values);
    return static_cast<const int32_t*>(data);
  }

  // What rotates the queries and keys of such attention, and appends to the same pages.
  Result<RopeAppendArgs> append_of(DeviceArena& arena, const AttentionArgs& attention) {
    const int64_t columns = int64_t{attention.q_heads + 2 * grid_.kv_heads} * grid_.head_dim;
    ASSIGN_OR_RETURN(const Tensor qkv, tensors_.activation(arena, ops_.stream_format, attention.step.tokens, columns));
    const int64_t positions = int64_t{attention.pages.blocks_per_slot} * grid_.block_tokens;
    std::vector<float> pairs;  // that turn and do not scale: rows are rotated again and again
    for (int64_t i = 0; i < positions * grid_.head_dim / 2; ++i) pairs.insert(pairs.end(), {0.8f, 0.6f});
    ASSIGN_OR_RETURN(const float* cos_sin, arena.upload(pairs));
    return RopeAppendArgs{.qkv = qkv, .step = attention.step, .pages = attention.pages, .q_heads = attention.q_heads,
                          .cos_sin = cos_sin, .rotary_dim = grid_.head_dim};
  }

  Status measure_decode(const DecodeShape& shape, int q_heads) {
    DeviceArena arena(ops_, device_);
    Attention attention;
    RETURN_IF_ERROR(prepare_attention(arena, shape.rows, shape.context, 1, q_heads, &attention));
    RopeAppendArgs append;
    if (grid_.own_launches) {
      ASSIGN_OR_RETURN(append, append_of(arena, attention.args));
      attention.args.append = &append;
    }
    size_t turn = 0;
    size_t sets = attention.pages.size();
    const auto attend = [&] {
      append.pages.data = attention.args.pages.data = attention.pages[turn++ % sets];
      ops_.attention(device_, attention.args);
    };
    ASSIGN_OR_RETURN(const double us, timer_.time_us(attend));
    const double bytes = double(shape.rows) * shape.context * 2 * grid_.kv_heads *
                         static_cast<double>(row_bytes(ops_.kv_format, grid_.head_dim));
    samples_.push_back({.what = "decode_attention", .tokens = double(shape.rows), .size = bytes, .bytes = bytes, .us = us});
    if (!grid_.own_launches) return {};
    sets = count_with(kCachedBytes, static_cast<int64_t>(bytes), sets);
    for (turn = 0; turn < kWarmTurns * sets;) attend();
    ASSIGN_OR_RETURN(const double cached_us, timer_.time_us(attend));
    add_again("cached_attention", cached_us);
    return {};
  }

  // Every core has rows enough. Query heads that share keys take time of their own. Then what a launch takes besides.
  Status measure_group_decodes() {
    const int rows = std::min(kCpuRowsPerThread * threads_, kCpuRowsMax);
    for (const int context : kCpuContexts) {
      for (const int group : kCpuGroups) {
        RETURN_IF_ERROR(measure_decode({rows, context}, group * grid_.kv_heads));
        for (ProbeSample* sample : {&samples_[samples_.size() - 2], &samples_.back()}) {
          sample->group = group;
          sample->size = context;
        }
      }
    }
    const int heads = grid_.kv_heads;
    RETURN_IF_ERROR(measure_decode({1, kCpuContexts[1]}, heads));  // the fewest keys that all cores share
    const double alone_us = samples_.back().us;  // by keys in caches
    RETURN_IF_ERROR(measure_decode({rows, kCpuContexts[1]}, heads));
    const double unit_us = samples_.back().us / ceil_div(rows * heads, threads_);
    const double work_us = unit_us * ceil_div(heads, threads_);
    samples_.resize(samples_.size() - 4);
    samples_.push_back({.what = "decode_launch", .us = std::max(alone_us - work_us, 0.0)});
    return {};
  }

  Status measure_prefill(int tokens) {
    DeviceArena arena(ops_, device_);
    Attention attention;
    RETURN_IF_ERROR(prepare_attention(arena, 1, tokens, tokens, grid_.q_heads, &attention));
    ASSIGN_OR_RETURN(const double us, timer_.time_us([&] { ops_.attention(device_, attention.args); }));
    const double pairs = tokens * (tokens + 1.0) / 2;
    samples_.push_back({.what = "prefill_attention", .tokens = double(tokens),
                        .flops = 4.0 * grid_.q_heads * grid_.head_dim * pairs, .us = us});
    return {};
  }

  Status measure_gate(int tokens, int64_t columns) {
    DeviceArena arena(ops_, device_);
    ASSIGN_OR_RETURN(const Tensor gate_up, tensors_.activation(arena, ops_.stream_format, tokens, 2 * columns));
    ASSIGN_OR_RETURN(const Tensor out, tensors_.activation(arena, grid_.row_format, tokens, columns));
    const SiluMulArgs args{.out = out, .gate_up = gate_up};
    ASSIGN_OR_RETURN(const std::function<void()> write_gates, writer_of(arena, gate_up));
    ASSIGN_OR_RETURN(const double us, time_behind(write_gates, [&] { ops_.silu_mul(device_, args); }));
    samples_.push_back({.what = "gate", .tokens = double(tokens),
                        .bytes = 3.0 * tokens * static_cast<double>(columns) * stream_bytes(), .us = us});
    return {};
  }

  Status measure_rope(int tokens, int q_heads) {
    DeviceArena arena(ops_, device_);
    Attention attention;
    RETURN_IF_ERROR(prepare_attention(arena, 1, tokens, tokens, q_heads, &attention));
    ASSIGN_OR_RETURN(const RopeAppendArgs args, append_of(arena, attention.args));
    ASSIGN_OR_RETURN(const std::function<void()> write_qkv, writer_of(arena, args.qkv));
    ASSIGN_OR_RETURN(const double us, time_behind(write_qkv, [&] { ops_.rope_append(device_, args); }));
    samples_.push_back({.what = "rope", .tokens = double(tokens),
                        .bytes = 2.0 * tokens * static_cast<double>(args.qkv.columns) * stream_bytes(), .us = us});
    return {};
  }

  // The likeliest token of each row.
  Status measure_sampling() {
    DeviceArena arena(ops_, device_);
    const int rows = kSampleRowsPerThread * threads_;
    ASSIGN_OR_RETURN(const Tensor logits, tensors_.activation(arena, Format::kF32, rows, kVocabulary));
    SlotState state{.slots = rows, .tokens_max = 2};
    ASSIGN_OR_RETURN(state.tokens, arena.allocate_array<int32_t>(int64_t{rows} * state.tokens_max));
    ASSIGN_OR_RETURN(state.lengths, arena.allocate_array<int32_t>(rows));
    ASSIGN_OR_RETURN(state.sampling, arena.allocate_array<SlotSampling>(rows));
    ASSIGN_OR_RETURN(SampledToken* out, arena.allocate_array<SampledToken>(rows));
    ASSIGN_OR_RETURN(int32_t* tokens, arena.allocate_array<int32_t>(rows));
    std::vector<SampleRow> asked;
    for (int row = 0; row < rows; ++row) asked.push_back({.slot = row});
    ASSIGN_OR_RETURN(SampleRow* row_data, arena.allocate_array<SampleRow>(rows));
    copy_to_device(row_data, asked);
    copy_to_device(state.sampling, std::vector<SlotSampling>(asked.size(), {.temperature = 0, .top_logprobs = -1}));
    copy_to_device(state.tokens, std::vector<int32_t>(asked.size() * 2, 0));
    copy_to_device(state.lengths, std::vector<int32_t>(asked.size(), 1));
    ASSIGN_OR_RETURN(const std::function<void()> write_logits, writer_of(arena, logits));
    ASSIGN_OR_RETURN(const double us, time_behind(write_logits, [&] {
      ops_.sample(device_, {.out = out, .tokens = tokens, .logits = static_cast<float*>(logits.data),
                            .vocabulary = kVocabulary, .rows = rows, .row = row_data, .state = &state});
    }));
    samples_.push_back({.what = "sample", .tokens = double(rows), .size = double(kVocabulary), .us = us});
    return {};
  }

  template <typename Element>
  void copy_to_device(Element* to, const std::vector<Element>& values) {
    ops_.copy_to_device(device_, to, values.data(), static_cast<int64_t>(values.size() * sizeof(Element)));
  }

  const Ops& ops_;
  Device& device_;
  ProbeTimer& timer_;
  const Grid& grid_;
  const int threads_;
  ProbeTensors& tensors_;
  std::vector<ProbeSample> samples_;
};

}  // namespace

Result<std::vector<ProbeSample>> probe_device(const ProbeSpec& spec, const Ops& ops, Device& device,
                                              ProbeTimer& timer) {
  const bool gpu = spec.device == "cuda";
  const int64_t beyond_caches = std::clamp(kTimesLastCache * last_cache_bytes(), kTurnBytes, kTurnBytesMax);
  const int64_t turn_bytes = gpu ? kTurnBytes : beyond_caches;
  std::optional<ProbeTensors> tensors(std::in_place, ops, device, !gpu, turn_bytes);
  DeviceProbe probe(ops, device, timer, gpu ? kGpuGrid : kCpuGrid, spec.threads, *tensors);
  if (gpu) return probe.run();
  // Half of the cores, as a rank of two has them. They take turns with all of them: how much faster a core is while
  // others wait changes with what else the machine does.
  const int half = half_of(spec.threads);
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> stage, ops.open({.threads = half}));
  std::unique_ptr<Device> others;
  if (spec.threads > 1) {
    ASSIGN_OR_RETURN(others, ops.open({.threads = half}));
  }
  DeviceProbe stage_probe(ops, *stage, timer, kCpuGrid, half, *tensors);
  std::vector<std::vector<ProbeSample>> passes(kPasses);
  for (std::vector<ProbeSample>& pass : passes) {
    ASSIGN_OR_RETURN(pass, probe.run());
    if (others == nullptr) continue;
    ASSIGN_OR_RETURN(const std::vector<ProbeSample> by_half, stage_probe.run_half_products(*others));
    pass.insert(pass.end(), by_half.begin(), by_half.end());
  }
  std::vector<ProbeSample> samples = medians_of(passes);
  ASSIGN_OR_RETURN(const std::vector<ProbeSample> woken, stage_probe.run_woken(spec.threads - half));
  samples.insert(samples.end(), woken.begin(), woken.end());
  tensors.reset();  // its memory, for as much again
  const auto read = static_cast<double>(turn_bytes);
  samples.push_back({.what = "read", .bytes = read, .us = read / host_read_rate(spec.threads, turn_bytes) * 1e6});
  return samples;
}

}  // namespace skein
