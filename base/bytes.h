#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/checked.h"

// Little-endian records for memory that ranks share. Not for files or for other machines' versions
// of us: no alignment, no field numbers; whoever uses it writes a version first.

namespace skein {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

// What may be copied as bytes: numbers, and arrays of them.
template <typename T>
concept PlainNumber = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

// Appends to a string.
class ByteWriter {
 public:
  explicit ByteWriter(std::string* out) : out_(*out) {}

  template <PlainNumber T>
  void put(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }

  // A count and that many elements.
  template <PlainNumber T>
  void put_array(std::span<const T> values) {
    put(static_cast<uint32_t>(values.size()));
    out_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
  void put_text(std::string_view text) {
    put(static_cast<uint32_t>(text.size()));
    out_.append(text);
  }

 private:
  std::string& out_;
};

// Reads what ByteWriter wrote, from bytes that may be anything. The first read past the end makes
// every later one give zero or nothing; ok() says so once, at the end. Counts are checked against
// the bytes left before allocating.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  bool ok() const { return ok_; }
  bool at_end() const { return bytes_.empty(); }
  size_t left() const { return bytes_.size(); }
  void fail() {
    ok_ = false;
    bytes_ = {};
  }

  template <PlainNumber T>
  T get() {
    T value{};
    get_values(std::span<T>(&value, 1));
    return value;
  }

  // Fills `out`, or fails and leaves it as it was.
  template <PlainNumber T>
  void get_values(std::span<T> out) {
    if (out.size_bytes() > bytes_.size()) return fail();
    if (out.empty()) return;
    std::memcpy(out.data(), bytes_.data(), out.size_bytes());
    bytes_.remove_prefix(out.size_bytes());
  }

  // A count of elements that each take at least `bytes_each` more bytes; 0 on failure.
  uint32_t get_count(size_t bytes_each) {
    const auto count = get<uint32_t>();
    const auto bytes = checked_mul<uint64_t>(count, bytes_each);
    if (!bytes || *bytes > bytes_.size()) fail();
    return ok_ ? count : 0;
  }

  template <PlainNumber T>
  std::vector<T> get_array() {
    std::vector<T> values(get_count(sizeof(T)));
    get_values(std::span<T>(values));
    return values;
  }
  std::string_view get_text() {
    const uint32_t size = get_count(1);
    const std::string_view text = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return text;
  }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace skein
