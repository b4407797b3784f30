#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "model/checkpoint.h"
#include "model/description.h"
#include "model/families.h"
#include "model/fingerprint.h"

namespace skein {

// A tensor as a file lists it, whatever the file's format. Valid as long as the mapped file.
struct FileTensor {
  std::optional<Format> format;  // none: `type` is not read by this build
  std::string type;              // the file format's name for it
  std::vector<int64_t> shape;    // outermost dimension first
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

using FileTensors = std::unordered_map<std::string, FileTensor>;

// Every weight that a description calls for, by role and layer. Immutable.
class WeightTable {
 public:
  // Looks each weight up under its family's name and checks format and shape. Refuses tensors that
  // the model would leave unused, except those known to be harmless. `tensors` may go afterwards,
  // the mapped bytes may not.
  static Result<WeightTable> resolve(const ModelDescription& description, const Family& family,
                                     Naming naming, const FileTensors& tensors);
  // Weights made up from nothing: see LoadFormat::kDummy.
  static WeightTable dummy(const ModelDescription& description);

  // Requires: the description calls for that weight.
  const HostWeight& at(WeightRole role, int layer) const;
  // The layers' linear weights' most common format, by elements.
  Format main_format() const;
  // Adds every weight's format, shape and a few of its bytes.
  void add_to(Fingerprint* fingerprint) const;

 private:
  WeightTable() = default;

  // (1 + layers, roles), the weights outside layers first; rows == 0: the description has none.
  std::vector<HostWeight> weights_;
  std::vector<std::vector<std::byte>>
      reordered_;  // GGUF's q and k biases in the order of a Hugging Face checkpoint
  std::vector<uint16_t> dummy_block_;
};

}  // namespace skein
