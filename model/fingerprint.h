#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace skein {

// FNV-1a over everything added, in order. Tells versions of a model apart; no defence against
// forgery.
class Fingerprint {
 public:
  void add(const void* data, size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < bytes; ++i) value_ = (value_ ^ at[i]) * 0x100000001B3u;
  }
  void add(std::string_view text) {
    add(static_cast<int64_t>(text.size()));
    add(text.data(), text.size());
  }
  void add(int64_t number) { add(&number, sizeof number); }
  void add(double number) { add(&number, sizeof number); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xCBF29CE484222325u;
};

}  // namespace skein
