#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "model/families.h"
#include "model/gguf.h"

// Any bytes are a GGUF file that parses and is described, or are refused; a tensor's data can be
// read to its end.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = skein::GgufFile::parse(bytes);
  if (!file.ok()) return 0;
  unsigned sum = 0;
  for (const std::string& name : (*file)->tensor_names()) {
    const skein::GgufTensor& tensor = *(*file)->tensor(name);
    if (tensor.bytes > 0) sum += static_cast<unsigned>(tensor.data[0]);
    if (tensor.bytes > 0) sum += static_cast<unsigned>(tensor.data[tensor.bytes - 1]);
  }
  const auto description = skein::describe_gguf(**file);
  if (description.ok() && description->parameters() <= 0) __builtin_trap();
  volatile unsigned sink = sum;
  (void)sink;
  return 0;
}
