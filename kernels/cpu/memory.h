#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/status.h"

namespace skein {

// Memory straight from the kernel, at the start of a huge page where it is that large: zero, and resident
// only where it was touched. Single-owner.
class Mapping {
 public:
  Mapping() = default;
  // `reserve`: refused (kResourceExhausted) where the system can't hold all of it.
  static Result<Mapping> make(int64_t bytes, bool reserve);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_ = nullptr;
  void* start_ = nullptr;  // of the mapping, which is longer than what was asked for
  int64_t bytes_ = 0;
};

// A rank's allocations, 64-byte aligned. Weights are read from end to end every step, so small ones share
// huge pages: a walk over a thousand small pages would cost more than the arithmetic. Memory is given back
// when everything in its mapping has been released. Single-owner.
class Memory {
 public:
  Result<void*> allocate(int64_t bytes);
  // Requires: data came from allocate() and is released once; null does nothing.
  void release(void* data);

 private:
  struct Chunk {
    Mapping mapping;
    int64_t capacity = 0;
    int64_t used = 0;
    int live = 0;  // allocations not yet released
  };

  Result<size_t> add_chunk(int64_t bytes);

  std::vector<Chunk> chunks_;      // a chunk given back keeps its place, empty
  int64_t open_chunk_ = -1;        // where small allocations go
  std::unordered_map<void*, size_t> chunk_of_;
};

}  // namespace skein
