#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace skein {

// Sampled tokens as the last stage sends them back to stage 0, where the two are not one.
struct TokenMessage {
  uint64_t step = 0;
  std::vector<int32_t> slots, positions, tokens;  // equally many

  std::string encode() const;
  // Requires: `bytes` come from encode() of this build.
  static TokenMessage decode(std::string_view bytes);
};

}  // namespace skein
