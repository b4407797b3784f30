#include "kernels/cuda/linear_choice.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/cublas.h"

namespace skein::cuda {
namespace {

struct Named {
  LinearWay way;
  std::string_view name;
};
// As tried where nothing was timed.
constexpr std::array kWays{Named{LinearWay::kVector, "vector"}, Named{LinearWay::kNarrow, "narrow"},
                           Named{LinearWay::kInvariant, "invariant"}, Named{LinearWay::kStreaming, "streaming"},
                           Named{LinearWay::kSplit, "split"}, Named{LinearWay::kLibrary, "cublaslt"}};
// Up to so many tokens a way is usually the fastest.
int64_t usual_tokens(LinearWay way) {
  switch (way) {
    case LinearWay::kVector: return 1;
    case LinearWay::kNarrow: return 32;
    case LinearWay::kInvariant:
    case LinearWay::kStreaming:
    case LinearWay::kSplit: return 0;
    case LinearWay::kLibrary: break;
  }
  return std::numeric_limits<int64_t>::max();
}

// With a number that grows when kernels change.
std::string key_of(const ProductShape& shape, bool gated) {
  return std::string(gated ? "gated" : "linear") + " 1\t" + name_of(shape);
}

void run(CudaDevice& device, LinearWay way, const PreparedProduct& product, bool gated) {
  const LinearArgs& args = product.linear;
  if (!gated) return run_linear(device, way, args);
  run_gated_linear(
      device, way,
      {.out = product.gated, .gate_up = args.out, .x = args.x, .weight = args.weight, .bias = args.bias});
}

// In a step a kernel of ours begins, and reads its first weights, while the launch before it still runs; cuBLASLt's
// begin behind its end. Alike products one after another do not show all of that.
constexpr double kEarlyStartUs = 2;

LinearWay fastest_of(CudaDevice& device, std::span<const PreparedProduct> alike, bool gated) {
  const Tensor& x = alike[0].linear.x;
  std::vector<LinearWay> ways;
  for (const auto& [way, name] : kWays) {
    if (way != LinearWay::kVector && linear_way_fits(way, x, alike[0].linear.weight, gated)) ways.push_back(way);
  }
  if (ways.size() == 1) return ways[0];
  const std::vector<double> times = product_times_us(device, x.rows, ways.size(), [&](size_t way, size_t i) {
    run(device, ways[way], alike[i % alike.size()], gated);
    return true;
  });
  const auto cost = [&](size_t way) { return times[way] + (ways[way] == LinearWay::kLibrary ? kEarlyStartUs : 0); };
  size_t fastest = 0;
  for (size_t way = 1; way < ways.size(); ++way) {
    if (cost(way) < cost(fastest)) fastest = way;
  }
  return ways[fastest];
}

}  // namespace

LinearWay LinearChoice::way(const Tensor& x, const Tensor& weight, bool gated, bool out_f32) const {
  if (x.rows > kCertainTokens) {
    const auto found = fastest_.find({shape_of(x, weight, out_f32), gated});
    if (found != fastest_.end() && linear_way_fits(found->second, x, weight, gated)) return found->second;
  }
  const auto usual = std::ranges::find_if(kWays, [&](const Named& named) {
    return x.rows <= usual_tokens(named.way) && linear_way_fits(named.way, x, weight, gated);
  });
  return usual->way;
}

Status LinearChoice::tune(CudaDevice& device, std::span<const PreparedProduct> products, ProductTimings& timings) {
  std::vector<LinearArgs> for_library;
  std::map<std::pair<ProductShape, bool>, std::vector<PreparedProduct>> by_shape;
  for (const PreparedProduct& product : products) {
    const LinearArgs& args = product.linear;
    if (args.x.rows <= kCertainTokens) continue;
    for_library.push_back(args);
    const bool gated = product.gated.data != nullptr;
    by_shape[{shape_of(args.x, args.weight, args.out.format == Format::kF32), gated}].push_back(product);
  }
  RETURN_IF_ERROR(device.cublas().tune(device, for_library, timings));
  for (const auto& [key, alike] : by_shape) {
    const auto& [shape, gated] = key;
    const std::string known = timings.find(key_of(shape, gated)).value_or("");
    const auto named = std::ranges::find(kWays, known, &Named::name);
    if (named != kWays.end()) {
      fastest_[key] = named->way;
      continue;
    }
    fastest_[key] = fastest_of(device, alike, gated);
    const auto found = std::ranges::find(kWays, fastest_[key], &Named::way);
    timings.add(key_of(shape, gated), std::string(found->name));
    RETURN_IF_ERROR(device.synchronize());
  }
  return {};
}

}  // namespace skein::cuda
