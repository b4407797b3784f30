#pragma once

#include <compare>
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
  // Appends what was added.
  Status save() const;

 private:
  std::string path_;
  std::string machine_;
  std::vector<std::string> known_;  // lines without the machine
  std::string added_;
  bool cut_off_ = false;  // the file's last line does not end
};

// Microseconds of a call of body(0), body(1), ... on products of so many tokens, one after another as in a step: the
// median of a few rounds; infinite if body says that it does not run. The device's scratch memory is overwritten.
double product_time_us(CudaDevice& device, int64_t tokens, const std::function<bool(size_t)>& body);

}  // namespace skein::cuda
