#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/tensor.h"

// Pieces of model files, so that a test can put together a valid one or one that lies.

namespace skein::test {

template <typename T>
std::string le(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string gguf_string(std::string_view text) {
  return le<uint64_t>(text.size()) + std::string(text);
}

inline std::string gguf_head(uint64_t tensors, uint64_t pairs, uint32_t version = 3) {
  return "GGUF" + le(version) + le(tensors) + le(pairs);
}

enum GgufValueNumber : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

inline std::string gguf_pair(std::string_view key, uint32_t type, const std::string& payload) {
  return gguf_string(key) + le(type) + payload;
}

inline std::string gguf_array(uint32_t element_type, uint64_t count, const std::string& elements) {
  return le(element_type) + le(count) + elements;
}

inline std::string gguf_tensor(std::string_view name, const std::vector<int64_t>& dims,
                               uint32_t type, uint64_t offset) {
  std::string text = gguf_string(name) + le<uint32_t>(static_cast<uint32_t>(dims.size()));
  for (const int64_t dim : dims) text += le(dim);
  return text + le(type) + le(offset);
}

inline std::string padded(std::string text, size_t alignment = 32) {
  text.resize((text.size() + alignment - 1) / alignment * alignment, '\0');
  return text;
}

// A valid GGUF file of any metadata and tensors.
class GgufBuilder {
 public:
  void add(std::string_view key, uint32_t type, const std::string& payload) {
    pairs_ += gguf_pair(key, type, payload);
    ++pair_count_;
  }
  void add_string(std::string_view key, std::string_view value) {
    add(key, kString, gguf_string(value));
  }
  void add_u32(std::string_view key, uint32_t value) { add(key, kU32, le(value)); }
  void add_f32(std::string_view key, float value) { add(key, kF32, le(value)); }
  void add_strings(std::string_view key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) elements += gguf_string(value);
    add(key, kArray, gguf_array(kString, values.size(), elements));
  }
  // `type` as GGML numbers it; `data` of the right size.
  void add_tensor(std::string_view name, const std::vector<int64_t>& dims, uint32_t type,
                  const std::string& data) {
    tensors_ += gguf_tensor(name, dims, type, data_.size());
    data_ = padded(data_ + data);
    ++tensor_count_;
  }
  std::string build() const {
    return padded(gguf_head(tensor_count_, pair_count_) + pairs_ + tensors_) + data_;
  }

 private:
  uint64_t pair_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::string pairs_;
  std::string tensors_;
  std::string data_;
};

inline std::string safetensors(std::string_view header, std::string_view data = "") {
  return le<uint64_t>(header.size()) + std::string(header) + std::string(data);
}

// A valid safetensors file.
class SafetensorsBuilder {
 public:
  void add(std::string_view name, std::string_view dtype, const std::vector<int64_t>& shape,
           std::string_view data) {
    std::string sizes;
    for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    if (!header_.empty()) header_ += ",";
    header_ += "\"" + std::string(name) + R"(":{"dtype":")" + std::string(dtype) +
               R"(","shape":[)" + sizes + R"(],"data_offsets":[)" + std::to_string(data_.size()) +
               "," + std::to_string(data_.size() + data.size()) + "]}";
    data_ += data;
  }
  std::string build() const { return safetensors("{" + header_ + "}", data_); }

 private:
  std::string header_;
  std::string data_;
};

}  // namespace skein::test
