#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace skein {

// A whole file mapped read-only. Movable, single-owner; the bytes are immutable. The file must not
// be truncated while it is mapped: reading a page that is gone raises SIGBUS. (Replacing it by
// rename is fine.)
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::string_view bytes() const { return {data_, size_}; }
  bool contains(const void* address) const;
  // The pages wholly inside that range may leave memory; reading them again reads the file.
  // Requires: the range lies within bytes().
  void drop_pages(const void* begin, size_t bytes) const;

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
};

// The file's text, at most `bytes_max`.
Result<std::string> read_file(const std::string& path, size_t bytes_max);

}  // namespace skein
