#pragma once

#include <compare>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Products that share what was found for one of them.
struct ProductShape {
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t tokens = 0;  // the most of the bucket: powers of two and halfway between them (96, 128, 192, ...)
  bool out_f32 = false;
  auto operator<=>(const ProductShape&) const = default;
};
ProductShape shape_of(const Tensor& x, const Tensor& weight, bool out_f32);
// "4096<tab>14336<tab>64<tab>bf16"
std::string name_of(const ProductShape& shape);

// A file of what was the fastest: lines of machine (GPU, driver, cuBLASLt), key and value, tabs between them. The file
// may be absent or damaged; what cannot be read is nothing. An empty path: no file.
class ProductTimings {
 public:
  // What it knows of the current device.
  explicit ProductTimings(std::string path);
  // The value behind the last such key.
  std::optional<std::string> find(const std::string& key) const;
  void add(const std::string& key, const std::string& value);
  // Adds to the file what was added.
  Status save() const;

 private:
  std::string path_;
  std::string machine_;
  std::vector<std::string> known_;  // lines without the machine
  std::string added_;
};

// Microseconds of each of `count` ways to do products of so many tokens; infinite if one does not run. body(way, i)
// queues the i-th of some calls and says whether it runs; they are recorded as a step is, and the ways take turns over
// some rounds, for a GPU is not as fast at any time; the medians count. Overwrites scratch memory and forgets what was
// recorded before.
std::vector<double> product_times_us(CudaDevice& device, int64_t tokens, size_t count,
                                     const std::function<bool(size_t way, size_t i)>& body);

}  // namespace skein::cuda
