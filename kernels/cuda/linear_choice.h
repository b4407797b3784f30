#pragma once

#include <map>
#include <span>
#include <utility>

#include "kernels/cuda/product_timings.h"

namespace skein::cuda {

// Who multiplies. kLibrary is cuBLASLt, with a launch of its own for SwiGLU; the others have that in their epilogue.
enum class LinearWay { kVector, kNarrow, kInvariant, kStreaming, kSplit, kLibrary };

// Whether a way is there for the product.
bool linear_way_fits(LinearWay way, const Tensor& x, const Tensor& weight, bool gated);
// Requires that it fits.
void run_linear(CudaDevice& device, LinearWay way, const LinearArgs& args);
void run_gated_linear(CudaDevice& device, LinearWay way, const GatedLinearArgs& args);

// The fastest ways for products of a model, found by running them. Single-owner: the executor thread.
class LinearChoice {
 public:
  // Up to so many tokens nobody is as fast as kVector and kNarrow: they are not timed.
  static constexpr int64_t kCertainTokens = 16;

  LinearWay way(const Tensor& x, const Tensor& weight, bool gated, bool out_f32) const;

  // As CublasLt::tune(), which it calls first.
  Status tune(CudaDevice& device, std::span<const PreparedProduct> products, ProductTimings& timings);

 private:
  std::map<std::pair<ProductShape, bool>, LinearWay> fastest_;  // by shape and gated
};

}  // namespace skein::cuda
