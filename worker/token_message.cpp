#include "worker/token_message.h"

#include <cstring>

#include "base/check.h"

namespace skein {

std::string TokenMessage::encode() const {
  std::string bytes(sizeof step + 3 * sizeof(int32_t) * slots.size(), '\0');
  char* out = bytes.data();
  const auto put = [&](const void* data, size_t size) {
    std::memcpy(out, data, size);
    out += size;
  };
  put(&step, sizeof step);
  for (const auto* values : {&slots, &positions, &tokens}) put(values->data(), values->size() * sizeof(int32_t));
  return bytes;
}

TokenMessage TokenMessage::decode(std::string_view bytes) {
  TokenMessage message;
  CHECK_GE(bytes.size(), sizeof message.step);
  std::memcpy(&message.step, bytes.data(), sizeof message.step);
  const char* in = bytes.data() + sizeof message.step;
  const size_t count = (bytes.size() - sizeof message.step) / (3 * sizeof(int32_t));
  for (auto* values : {&message.slots, &message.positions, &message.tokens}) {
    values->resize(count);
    std::memcpy(values->data(), in, count * sizeof(int32_t));
    in += count * sizeof(int32_t);
  }
  return message;
}

}  // namespace skein
