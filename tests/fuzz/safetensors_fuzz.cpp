#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "model/description.h"
#include "model/safetensors.h"

// The first byte chooses the reader: a safetensors file, an index or a config.json. Each parses or
// refuses any bytes; a tensor's data can be read to its end.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 == 1) {
    (void)skein::parse_safetensors_index(bytes).ok();
    return 0;
  }
  if (data[0] % 4 == 2) {
    const auto json = skein::parse_json(bytes);
    if (!json.ok()) return 0;
    const auto description = skein::describe_hugging_face(*json);
    if (description.ok() && description->parameters() <= 0) __builtin_trap();
    return 0;
  }
  const auto tensors = skein::parse_safetensors(bytes);
  if (!tensors.ok()) return 0;
  unsigned sum = 0;
  for (const auto& [name, tensor] : *tensors) {
    if (tensor.bytes > 0) sum += static_cast<unsigned>(tensor.data[tensor.bytes - 1]);
  }
  volatile unsigned sink = sum;
  (void)sink;
  return 0;
}
