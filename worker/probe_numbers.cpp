#include "worker/probe_numbers.h"

#include "base/half.h"

namespace skein {

std::vector<float> probe_numbers(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

std::vector<uint16_t> probe_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(f32_to_bf16(value));
  return halves;
}

std::vector<uint8_t> probe_blocks(Format format, int64_t bytes) {
  const auto block_bytes = static_cast<size_t>(info(format).block_bytes);
  std::vector<uint8_t> blocks;
  uint32_t state = 1;
  while (blocks.size() < static_cast<size_t>(bytes)) {
    blocks.insert(blocks.end(), {0x1f, 0x21});  // 0.01 in float16
    if (format == Format::kQ4_1) blocks.insert(blocks.end(), {0x1f, 0xad});  // -0.08
    while (blocks.size() % block_bytes != 0) {
      state = state * 1664525u + 1013904223u;
      blocks.push_back(static_cast<uint8_t>(state >> 24));
    }
  }
  return blocks;
}

}  // namespace skein
