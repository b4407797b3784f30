#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/tensor.h"

namespace skein {

// How GGML numbers and stores a tensor type.
struct GgufType {
  uint32_t number;
  std::string_view name;
  int block_elements;
  int block_bytes;
  std::optional<Format> format;  // none: known, but not read by this build
};

// nullptr if the number is not known.
const GgufType* find_gguf_type(uint32_t number);

}  // namespace skein
