#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "model/mapped_file.h"

namespace skein {

// A metadata value. Strings are copies; integer types are widened.
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>,
                               std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
  std::optional<Format> format;  // none: a type that this build does not read
  std::string type;              // GGML's name for it, "Q6_K"
  std::vector<int64_t> dims;  // GGUF order: dims[0] varies fastest (columns)
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// A parsed GGUF v2 or v3 file: every count, string, type and offset was checked against the file's
// size. Immutable, thread-safe.
class GgufFile {
 public:
  static Result<std::unique_ptr<GgufFile>> open(const std::string& path);
  // `bytes` must outlive the object. For tests and fuzzing.
  static Result<std::unique_ptr<GgufFile>> parse(std::string_view bytes);

  const GgufValue* find(std::string_view key) const;
  // A tensor of a type number that is not known has no data: its size is not known either.
  const GgufTensor* tensor(std::string_view name) const;
  const std::vector<std::string>& tensor_names() const { return tensor_names_; }

  uint64_t file_bytes() const { return file_bytes_; }
  // As MappedFile's. A file that was parsed from memory contains nothing that could be dropped.
  bool contains(const void* address) const { return file_.contains(address); }
  void drop_pages(const void* begin, size_t bytes) const { file_.drop_pages(begin, bytes); }

  // Typed access; kNotFound or kInvalidArgument names key and type.
  Result<int64_t> integer(std::string_view key) const;
  Result<double> real(std::string_view key) const;
  Result<std::string> string(std::string_view key) const;

 private:
  friend class GgufParser;
  MappedFile file_;
  std::unordered_map<std::string, GgufValue> metadata_;
  std::unordered_map<std::string, GgufTensor> tensors_;
  std::vector<std::string> tensor_names_;  // in file order
  uint64_t file_bytes_ = 0;
};

}  // namespace skein
