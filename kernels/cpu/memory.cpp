#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked.h"

namespace skein {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kChunk = 16 * kHugePage;
constexpr int64_t kSmall = 2 * kHugePage;  // what shares a chunk

}  // namespace

Result<Mapping> Mapping::make(int64_t bytes, bool reserve) {
  CHECK_GE(bytes, 0);
  const auto length = checked_add(bytes, bytes >= kHugePage ? kHugePage : 4096);
  void* start = MAP_FAILED;
  if (length) {
    start = mmap(nullptr, static_cast<size_t>(*length), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | (reserve ? 0 : MAP_NORESERVE), -1, 0);
  }
  if (start == MAP_FAILED) {
    return resource_exhausted("the system has no " + std::to_string(bytes) +
                              " bytes of memory left: lower the context or the cache, or use a smaller model");
  }
  Mapping out;
  out.start_ = start;
  out.bytes_ = *length;
  out.data_ = static_cast<uint8_t*>(start);
  if (bytes < kHugePage) return out;
  const auto address = reinterpret_cast<uintptr_t>(start);
  out.data_ += round_up<uintptr_t>(address, kHugePage) - address;
  // A refusal costs speed only.
  if (reserve) madvise(out.data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return out;
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      start_(std::exchange(other.start_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(start_, other.start_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (start_ != nullptr) munmap(start_, static_cast<size_t>(bytes_));
}

Result<size_t> Memory::add_chunk(int64_t bytes) {
  Chunk chunk;
  ASSIGN_OR_RETURN(chunk.mapping, Mapping::make(bytes, true));
  chunk.capacity = bytes;
  chunks_.push_back(std::move(chunk));
  return chunks_.size() - 1;
}

Result<void*> Memory::allocate(int64_t bytes) {
  CHECK_GE(bytes, 0);
  size_t index = 0;
  if (bytes > kSmall) {
    ASSIGN_OR_RETURN(index, add_chunk(bytes));
  } else {
    const auto open = static_cast<size_t>(open_chunk_);
    if (open_chunk_ >= 0 && chunks_[open].capacity - chunks_[open].used >= bytes) {
      index = open;
    } else {
      ASSIGN_OR_RETURN(index, add_chunk(kChunk));
      open_chunk_ = static_cast<int64_t>(index);
    }
  }
  Chunk& chunk = chunks_[index];
  void* data = chunk.mapping.data() + chunk.used;
  chunk.used = std::min(round_up<int64_t>(chunk.used + std::max<int64_t>(bytes, 1), 64), chunk.capacity);
  ++chunk.live;
  chunk_of_.emplace(data, index);
  return data;
}

void Memory::release(void* data) {
  if (data == nullptr) return;
  const auto at = chunk_of_.find(data);
  CHECK(at != chunk_of_.end());
  Chunk& chunk = chunks_[at->second];
  if (--chunk.live == 0) {
    if (open_chunk_ == static_cast<int64_t>(at->second)) open_chunk_ = -1;
    chunk = Chunk();
  }
  chunk_of_.erase(at);
}

}  // namespace skein
