#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/status.h"

namespace skein {

// A zeroed POSIX shared memory segment. It has a name only while the ranks find each other; once unlinked it goes
// with the last process that maps it, however that ends. Single-owner.
class SharedMemory {
 public:
  static Result<std::unique_ptr<SharedMemory>> create(const std::string& name, size_t bytes);
  static Result<std::unique_ptr<SharedMemory>> attach(const std::string& name, size_t bytes);
  ~SharedMemory();

  std::byte* data() const { return data_; }
  void unlink();  // by the creator, after everyone attached

 private:
  SharedMemory(std::string name, std::byte* data, size_t bytes, bool linked)
      : name_(std::move(name)), data_(data), bytes_(bytes), linked_(linked) {}
  const std::string name_;
  std::byte* const data_;
  const size_t bytes_;
  bool linked_;
};

}  // namespace skein
