#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/linear_choice.h"
#include "tests/bench/gpu/bench.h"

// Products of Llama-3.1-8B, whole and halved for two GPUs, by linear() and gated_linear() and by each way that is
// there; then the four of a layer one after another, as in a decode step.

namespace skein::bench {
namespace {

constexpr int64_t kTokensMax = 8192;
constexpr int kLayers = 8;

struct Product {
  const char* name;
  int64_t outputs;
  int64_t inputs;
  bool gated = false;
  bool logits = false;  // f32 out, never more than 256 tokens at once
};
constexpr Product kLayer[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096, true}, {"down", 4096, 14336}};
constexpr Product kOthers[] = {{"logits", 128256, 4096, false, true},   {"qkv tp2", 3072, 4096},
                               {"o tp2", 4096, 2048},                   {"gate_up tp2", 14336, 4096, true},
                               {"down tp2", 4096, 7168},                {"logits tp2", 64128, 4096, false, true}};

// Memory that the products share: weights from an arena that they walk through, so that none is in the L2 cache.
struct Buffers {
  static constexpr int64_t kArenaBytes = int64_t{4} << 30;
  std::byte* weights = static_cast<std::byte*>(random_bf16(kArenaBytes / 2, 0.02, 1));
  void* x = random_bf16(kTokensMax * 14336, 1, 2);
  void* gate_up = random_bf16(kTokensMax * 28672, 1, 3);
  void* out = random_bf16(kTokensMax * 14336, 1, 4);
  uint64_t* largest = upload(std::vector<uint64_t>(cuda::LinearChoice::kCertainTokens));
  int32_t* first_row = upload(std::vector<int32_t>(cuda::LinearChoice::kCertainTokens));

  void* weight(const Product& product, int i) const {
    const int64_t bytes = product.outputs * product.inputs * 2;
    return weights + i % (kArenaBytes / bytes) * bytes;
  }
};

Tensor matrix(void* data, Format format, int64_t rows, int64_t columns) {
  return {.data = data, .rows = rows, .columns = columns, .format = format, .row_stride = columns};
}

LinearArgs args_of(const Product& product, int64_t tokens, void* out, void* x, void* weight) {
  return {.out = matrix(out, product.logits ? Format::kF32 : Format::kBF16, tokens, product.outputs),
          .x = matrix(x, Format::kBF16, tokens, product.inputs),
          .weight = matrix(weight, Format::kBF16, product.outputs, product.inputs)};
}

std::string name_of(const Product& product, int64_t tokens) {
  return (product.gated ? "gated linear " : "linear ") + std::to_string(product.outputs) + "x" +
         std::to_string(product.inputs) + " m=" + std::to_string(tokens);
}

Line line_of(const Product& product, int64_t tokens, double us) {
  const double weights = 2.0 * static_cast<double>(product.outputs * product.inputs);
  const double out = product.logits ? 4.0 : product.gated ? 1.0 : 2.0;
  return {.name = name_of(product, tokens),
          .us = us,
          .bytes = weights + static_cast<double>(tokens) * (2.0 * static_cast<double>(product.inputs) +
                                                            out * static_cast<double>(product.outputs)),
          .flops = weights * static_cast<double>(tokens)};
}

GatedLinearArgs gated_args_of(const LinearArgs& args, void* out, void* gate_up) {
  GatedLinearArgs gated = {
      .out = matrix(out, Format::kBF16, args.x.rows, args.weight.rows / 2), .gate_up = args.out, .x = args.x,
      .weight = args.weight};
  gated.gate_up.data = gate_up;
  return gated;
}

void run(const Product& product, int64_t tokens, void* out, void* x, void* gate_up, void* weight) {
  const LinearArgs args = args_of(product, tokens, out, x, weight);
  if (!product.gated) return cuda::linear(gpu(), args);
  cuda::gated_linear(gpu(), gated_args_of(args, out, gate_up));
}

// Lets the device find its fastest way.
void prepare(const Product& product, int64_t tokens, const Buffers& buffers) {
  std::vector<PreparedProduct> alike;
  for (int i = 0; i < 4; ++i) {
    const LinearArgs args = args_of(product, tokens, product.gated ? buffers.gate_up : buffers.out, buffers.x,
                                    buffers.weight(product, i));
    const Tensor gated = matrix(buffers.out, Format::kBF16, tokens, product.outputs / 2);
    alike.push_back({.linear = args, .gated = product.gated ? gated : Tensor{}});
  }
  CHECK(cuda_ops().prepare(gpu(), {.products = alike.data(), .count = 4}).ok());
}

constexpr std::pair<cuda::LinearWay, const char*> kWays[] = {{cuda::LinearWay::kVector, "vector"},
                                                             {cuda::LinearWay::kNarrow, "narrow"},
                                                             {cuda::LinearWay::kInvariant, "invariant"},
                                                             {cuda::LinearWay::kStreaming, "streaming"},
                                                             {cuda::LinearWay::kSplit, "split"},
                                                             {cuda::LinearWay::kLibrary, "cuBLASLt"}};

void measure(const Product& product, const Buffers& buffers, std::span<const int64_t> token_counts) {
  for (const int64_t tokens : token_counts) {
    if (product.logits && tokens > 256) break;
    const int calls = tokens > 512 ? 4 : product.logits ? 6 : 20;
    prepare(product, tokens, buffers);
    report(line_of(product, tokens, time_us([&](int i) {
      run(product, tokens, buffers.out, buffers.x, buffers.gate_up, buffers.weight(product, i));
    }, calls, 5)));
    if (gpu().deterministic()) continue;
    for (const auto& [way, name] : kWays) {
      const LinearArgs any = args_of(product, tokens, buffers.out, buffers.x, buffers.weight(product, 0));
      if (!cuda::linear_way_fits(way, any.x, any.weight, product.gated)) continue;
      Line line = line_of(product, tokens, time_us([&](int i) {
        const LinearArgs args = args_of(product, tokens, buffers.out, buffers.x, buffers.weight(product, i));
        if (!product.gated) return cuda::run_linear(gpu(), way, args);
        cuda::run_gated_linear(gpu(), way, gated_args_of(args, buffers.out, buffers.gate_up));
      }, calls, 5));
      line.name = std::string("  ") + name;
      report(line);
      if (!product.logits || tokens > cuda::LinearChoice::kCertainTokens || way > cuda::LinearWay::kNarrow) continue;
      // Behind the launch that picks its rows, as in a step, and sets keys back.
      for (uint64_t* largest : {static_cast<uint64_t*>(nullptr), buffers.largest}) {
        line.us = time_us([&](int i) {
          LinearArgs args = args_of(product, tokens, buffers.out, buffers.gate_up, buffers.weight(product, i));
          args.largest = largest;
          Tensor all = args.x;
          all.data = buffers.x;
          cuda::gather_rows(gpu(), {.out = args.x, .x = all, .rows = buffers.first_row,
                                    .count = static_cast<int>(tokens), .zeroed = buffers.largest});
          cuda::run_linear(gpu(), way, args);
        }, calls, 5);
        line.name = std::string("  ") + name + (largest == nullptr ? ", rows picked" : ", rows picked, arg-max");
        report(line);
      }
    }
  }
}

// qkv, o, gate_up and down of eight layers, each reading what the one before wrote.
void measure_chain(const Buffers& buffers, int64_t tokens) {
  const auto layer = [&](int i) {
    std::byte* weight = buffers.weights + int64_t{i % kLayers} * (int64_t{440} << 20);
    auto* from = static_cast<std::byte*>(buffers.x);
    for (const Product& product : kLayer) {
      std::byte* to = from + (int64_t{32} << 20);
      run(product, tokens, to, from, buffers.gate_up, weight);
      weight += product.outputs * product.inputs * 2;
      from = to;
    }
  };
  Line line = {.name = "layer chain m=" + std::to_string(tokens), .us = time_us(layer, 2 * kLayers, 5)};
  for (const Product& product : kLayer) {
    const Line part = line_of(product, tokens, 0);
    line.bytes += part.bytes;
    line.flops += part.flops;
  }
  report(line);
}

int run_all(int argc, char** argv) {
  if (int status = open_bench(argc, argv)) return status;
  const Buffers buffers;
  constexpr int64_t kTokens[] = {1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 2048, 8192};
  for (const Product& product : kLayer) measure(product, buffers, kTokens);
  for (const Product& product : kOthers) measure(product, buffers, kTokens);
  for (const int64_t tokens : kTokens) {
    if (tokens <= 1024) measure_chain(buffers, tokens);
  }
  return gpu().synchronize().ok() ? 0 : 1;
}

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) { return skein::bench::run_all(argc, argv); }
