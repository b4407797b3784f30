#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"

// What the probes' tensors are filled with: the same on every run.

namespace skein {

// In [-1, 1).
std::vector<float> probe_numbers(int64_t count);
std::vector<uint16_t> probe_bf16(const std::vector<float>& values);  // the same, rounded
// At least so many bytes: blocks of a quantised format with scales of about a hundredth.
std::vector<uint8_t> probe_blocks(Format format, int64_t bytes);

}  // namespace skein
