#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "kernels/ops.h"

// Times the CPU kernels: single products with weights that come from memory, and the launches of a whole
// model of SmolLM2-135M's shape with random weights. Usage: cpu_kernels_bench [threads [isa...]]

namespace skein {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median seconds of `repeats` runs after one to warm up.
template <typename Body>
double median_seconds(int repeats, const Body& body) {
  body();
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const double start = now();
    body();
    times.push_back(now() - start);
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<size_t>(repeats / 2)];
}

// Bytes per second that `threads` threads read from memory, eight streams each.
double read_bandwidth(int threads) {
  constexpr size_t kWords = size_t{16} << 20;  // 128 MB per thread
  std::vector<std::vector<uint64_t>> data(static_cast<size_t>(threads), std::vector<uint64_t>(kWords, 1));
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  for (auto& words : data) madvise(words.data(), kWords * 8, MADV_HUGEPAGE);
  const double seconds = median_seconds(5, [&] {
    std::vector<std::thread> team;
    for (size_t t = 0; t < static_cast<size_t>(threads); ++t) {
      team.emplace_back([&, t] {
        uint64_t sum[8] = {};
        const uint64_t* words = data[t].data();
        for (size_t i = 0; i < kWords / 8; i += 8) {
          for (size_t s = 0; s < 8; ++s) {
            for (size_t j = 0; j < 8; ++j) sum[j] += words[s * (kWords / 8) + i + j];
          }
        }
        for (size_t j = 0; j < 8; ++j) sums[t * 8 + j] = sum[j];
      });
    }
    for (auto& thread : team) thread.join();
  });
  CHECK_EQ(sums[0], kWords / 8);
  return static_cast<double>(threads) * kWords * 8 / seconds;
}

class Bench {
 public:
  Bench(const std::string& isa, int threads) : isa_(isa), threads_(threads) {
    setenv("SKEIN_CPU_ISA", isa.c_str(), 1);
    auto device = cpu_ops().open({.threads = threads});
    if (!device.ok()) {
      std::fprintf(stderr, "%s\n", device.status().message().c_str());
      return;
    }
    device_ = std::move(*device);
  }
  bool ok() const { return device_ != nullptr; }
  Device& device() { return *device_; }

  void* memory(int64_t bytes) {
    auto data = ops_.allocate(*device_, bytes);
    CHECK(data.ok());
    return *data;
  }
  Tensor tensor(Format format, int64_t rows, int64_t columns) {
    return ops_.make_tensor(memory(ops_.tensor_bytes(format, rows, columns)), format, rows, columns);
  }
  Tensor normals(int64_t rows, int64_t columns) {
    Tensor out = tensor(Format::kF32, rows, columns);
    for (int64_t i = 0; i < rows * columns; ++i) static_cast<float*>(out.data)[i] = normal_(random_);
    return out;
  }
  Tensor activation(Format weight, int64_t rows, int64_t columns) {
    Tensor values = normals(rows, columns);
    if (ops_.activation_format(weight) == Format::kF32) return values;
    Tensor out = tensor(Format::kI8Block32, rows, columns);
    std::vector<float> ones(static_cast<size_t>(columns), 1.0f);
    ops_.add_norm(*device_, {.out = out, .residual = values, .x = {}, .weight = ones.data(), .epsilon = 1e-5f});
    return out;
  }
  // Every row the same random bytes with sane scales.
  Tensor weight(Format format, int64_t rows, int64_t columns) {
    Tensor out = {.data = memory(ops_.linear_bytes(format, rows, columns)), .rows = rows, .columns = columns,
                  .format = format, .layout = Layout::kPacked};
    std::vector<uint8_t> row(static_cast<size_t>(row_bytes(format, columns)));
    const auto block = static_cast<size_t>(info(format).block_bytes);
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = static_cast<uint8_t>(random_());
      if (block <= 2 && i % block == block - 1) row[i] = 0x30;
      if (block == 4 && i % 4 == 3) row[i] = 0x3c;
      if (block > 4 && i % block < 4) row[i] = i % 2 == 1 ? 0x20 : row[i];
    }
    const std::vector<const void*> rows_at(static_cast<size_t>(rows), row.data());
    ops_.pack_linear(*device_, {.out = out, .first_row = 0, .row_count = rows, .source_rows = rows_at.data(),
                                .source_format = format});
    return out;
  }

  // One product; weights rotate through 200 MB so that they come from memory.
  void product(Format format, int64_t rows, int64_t columns, int64_t tokens) {
    const int64_t bytes = ops_.linear_bytes(format, rows, columns);
    const auto copies = static_cast<size_t>(std::max<int64_t>(1, (int64_t{200} << 20) / bytes));
    std::vector<Tensor> weights;
    for (size_t i = 0; i < copies; ++i) weights.push_back(weight(format, rows, columns));
    const Tensor x = activation(format, tokens, columns);
    const Tensor out = tensor(Format::kF32, tokens, rows);
    size_t next = 0;
    const int calls = tokens == 1 ? static_cast<int>(copies) : 10;
    const double seconds = median_seconds(5, [&] {
      for (int i = 0; i < calls; ++i) {
        ops_.linear(*device_, {.out = out, .x = x, .weight = weights[next++ % copies]});
      }
    }) / calls;
    std::printf("%-7s %d threads  linear %-5s %6ld x %5ld, %4ld tokens: %9.1f us  %6.1f GB/s  %7.1f Gop/s\n",
                isa_.c_str(), threads_, std::string(info(format).name).c_str(), rows, columns, tokens,
                1e6 * seconds, static_cast<double>(bytes) / seconds * 1e-9,
                2e-9 * static_cast<double>(rows * columns * tokens) / seconds);
    std::fflush(stdout);
    for (const Tensor& w : weights) ops_.release(*device_, w.data);
  }

 private:
  std::string isa_;
  int threads_;
  const Ops& ops_ = cpu_ops();
  std::unique_ptr<Device> device_;
  std::mt19937 random_{1};
  std::normal_distribution<float> normal_;
};

// The launches of a Llama of SmolLM2-135M's shape; one sequence.
class Model {
 public:
  static constexpr int64_t kHidden = 576, kInner = 1536, kVocabulary = 49152;
  static constexpr int kLayers = 30, kHeads = 9, kKvHeads = 3, kDim = 64, kBlockTokens = 32;

  Model(Bench* bench, Format format, Format output, int context_max, int tokens_max)
      : bench_(bench), context_max_(context_max) {
    for (int i = 0; i < kLayers; ++i) {
      layers_.push_back({bench->weight(format, (kHeads + 2 * kKvHeads) * kDim, kHidden),
                         bench->weight(format, kHidden, kHeads * kDim), bench->weight(format, 2 * kInner, kHidden),
                         bench->weight(format, kHidden, kInner),
                         bench->memory(int64_t{context_max} * 2 * kKvHeads * kDim * 2)});
      std::memset(layers_.back().pages, 0, static_cast<size_t>(context_max) * 2 * kKvHeads * kDim * 2);
    }
    head_ = bench->weight(output, kVocabulary, kHidden);
    x_format_ = cpu_ops().activation_format(format);
    head_format_ = cpu_ops().activation_format(output);
    for (int i = 0; i < context_max / kBlockTokens; ++i) table_.push_back(i);
    norm_.assign(kHidden, 1.0f);
    cos_sin_.assign(static_cast<size_t>(context_max) * kDim, 0.5f);
    residual_ = bench->normals(tokens_max, kHidden).data;
    hidden_ = bench->memory(tokens_max * kInner * 4 * 2);
    qkv_ = bench->memory(tokens_max * 2 * kInner * 4);
    out_ = bench->memory(tokens_max * kHidden * 4);
    logits_ = bench->tensor(Format::kF32, 1, kVocabulary);
  }

  double step_seconds(int first, int count, int repeats) {
    return median_seconds(repeats, [&] { step(first, count); });
  }

  // Microseconds per kind of launch in one step.
  void print_profile(int first, int count) {
    double best[kKinds] = {};
    for (int i = 0; i < 9; ++i) {
      std::fill(spent_, spent_ + kKinds, 0.0);
      step(first, count);
      for (int k = 0; k < kKinds; ++k) best[k] = i == 0 ? spent_[k] : std::min(best[k], spent_[k]);
    }
    const char* names[kKinds] = {"norm", "qkv", "rope", "attention", "out", "gate_up", "silu", "down", "head", "sample"};
    std::printf("        ");
    for (int k = 0; k < kKinds; ++k) std::printf(" %s %.0f", names[k], 1e6 * best[k]);
    std::printf(" us\n");
  }

 private:
  enum Kind { kNorm, kQkv, kRope, kAttention, kOut, kGateUp, kSilu, kDown, kHead, kSample, kKinds };

  struct Layer {
    Tensor qkv, out, gate_up, down;
    void* pages;
  };

  void mark(Kind kind) {
    const double t = now();
    spent_[kind] += t - mark_;
    mark_ = t;
  }

  void norm(const Tensor& x, const Tensor& residual, const Tensor& out) {
    ops_.add_norm(bench_->device(),
                  {.out = out, .residual = residual, .x = x, .weight = norm_.data(), .epsilon = 1e-5f});
  }

  void step(int first, int count) {
    Device& device = bench_->device();
    std::vector<int32_t> positions;
    for (int i = 0; i < count; ++i) positions.push_back(first + i);
    const int32_t begin[] = {0, count};
    const int32_t slot = 0;
    const StepView view = {.rows = 1, .tokens = count, .positions = positions.data(), .query_begin = begin,
                           .slots = &slot};
    const Tensor residual = ops_.make_tensor(residual_, Format::kF32, count, kHidden);
    const Tensor hidden = ops_.make_tensor(hidden_, x_format_, count, kHidden);
    const Tensor inner = ops_.make_tensor(hidden_, x_format_, count, kInner);
    const Tensor attended = ops_.make_tensor(hidden_, x_format_, count, kHeads * kDim);
    const Tensor qkv = ops_.make_tensor(qkv_, Format::kF32, count, (kHeads + 2 * kKvHeads) * kDim);
    const Tensor gate_up = ops_.make_tensor(qkv_, Format::kF32, count, 2 * kInner);
    const Tensor out = ops_.make_tensor(out_, Format::kF32, count, kHidden);
    Tensor x;
    mark_ = now();
    for (const Layer& layer : layers_) {
      const KvPages pages = {.data = layer.pages, .format = Format::kF16, .blocks = context_max_ / kBlockTokens,
                             .kv_heads = kKvHeads, .block_tokens = kBlockTokens, .head_dim = kDim,
                             .block_table = table_.data(), .blocks_per_slot = static_cast<int>(table_.size())};
      norm(x, residual, hidden);
      mark(kNorm);
      ops_.linear(device, {.out = qkv, .x = hidden, .weight = layer.qkv});
      mark(kQkv);
      ops_.rope_append(device, {.qkv = qkv, .step = view, .pages = pages, .q_heads = kHeads,
                                .cos_sin = cos_sin_.data(), .rotary_dim = kDim});
      mark(kRope);
      ops_.attention(device, {.out = attended, .q = qkv, .step = view, .pages = pages, .q_heads = kHeads,
                              .group_size = kHeads / kKvHeads, .scale = 0.125f});
      mark(kAttention);
      ops_.linear(device, {.out = out, .x = attended, .weight = layer.out});
      mark(kOut);
      norm(out, residual, hidden);
      mark(kNorm);
      ops_.linear(device, {.out = gate_up, .x = hidden, .weight = layer.gate_up});
      mark(kGateUp);
      ops_.silu_mul(device, {.out = inner, .gate_up = gate_up});
      mark(kSilu);
      ops_.linear(device, {.out = out, .x = inner, .weight = layer.down});
      mark(kDown);
      x = out;
    }
    const Tensor last = ops_.make_tensor(residual_, Format::kF32, 1, kHidden);
    const Tensor last_hidden = ops_.make_tensor(hidden_, head_format_, 1, kHidden);
    norm({}, last, last_hidden);
    ops_.linear(device, {.out = logits_, .x = last_hidden, .weight = head_});
    mark(kHead);
    SlotSampling sampling = {.temperature = 0};
    int32_t tokens[2] = {1, 1}, length = 2;
    const SlotState state = {.slots = 1, .tokens_max = 2, .tokens = tokens, .lengths = &length, .sampling = &sampling};
    const SampleRow row;
    SampledToken token;
    int32_t id;
    ops_.sample(device, {.out = &token, .tokens = &id, .logits = static_cast<float*>(logits_.data),
                         .vocabulary = kVocabulary, .rows = 1, .row = &row, .state = &state});
    mark(kSample);
  }

  Bench* bench_;
  const Ops& ops_ = cpu_ops();
  int context_max_;
  Format x_format_, head_format_;
  std::vector<Layer> layers_;
  Tensor head_;
  std::vector<int32_t> table_;
  std::vector<float> norm_, cos_sin_;
  void *residual_, *hidden_, *qkv_, *out_;
  Tensor logits_;
  double spent_[kKinds] = {};
  double mark_ = 0;
};

void run_model(Bench* bench, const std::string& isa, int threads, Format format, Format output) {
  Model model(bench, format, output, 2048, 512);
  const std::string name = std::string(info(format).name) + "/" + std::string(info(output).name);
  for (int context : {16, 500, 1500}) {
    const double seconds = model.step_seconds(context, 1, 41);
    std::printf("%-7s %d threads  model %-9s decode  at %4d: %8.1f us  %7.1f token/s\n", isa.c_str(), threads,
                name.c_str(), context, 1e6 * seconds, 1 / seconds);
    model.print_profile(context, 1);
  }
  for (int count : {16, 128, 512}) {
    const double seconds = model.step_seconds(0, count, 5);
    std::printf("%-7s %d threads  model %-9s prefill of %4d: %8.1f ms  %7.1f token/s\n", isa.c_str(), threads,
                name.c_str(), count, 1e3 * seconds, count / seconds);
    model.print_profile(0, count);
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  using namespace skein;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  if (argc > 1) std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), threads);
  std::vector<std::string> sets(argv + std::min(argc, 2), argv + argc);
  if (sets.empty()) sets = {"vnni", "avx512", "avx2"};
  for (int t : {1, threads}) {
    std::printf("memory read, %d threads: %.1f GB/s\n", t, 1e-9 * read_bandwidth(t));
  }
  for (const std::string& isa : sets) {
    Bench bench(isa, threads);
    if (!bench.ok()) continue;
    run_model(&bench, isa, threads, Format::kQ4_1, Format::kQ8_0);
    run_model(&bench, isa, threads, Format::kBF16, Format::kBF16);
    for (Format format : {Format::kQ4_1, Format::kQ4_0, Format::kQ8_0, Format::kBF16, Format::kF16, Format::kF32}) {
      bench.product(format, 3072, 576, 1);
      bench.product(format, 3072, 576, 8);
      bench.product(format, 3072, 576, 256);
      bench.product(format, 576, 1536, 1);
    }
  }
  return 0;
}
