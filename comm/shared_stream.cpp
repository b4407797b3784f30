#include "comm/shared_stream.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"

namespace skein {
namespace {

constexpr uint64_t kMessageBytesMax = uint64_t{1} << 30;

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, nullptr, nullptr, 0);
}

}  // namespace

void Signal::pause() { __builtin_ia32_pause(); }

void Signal::notify() {
  sequence_.fetch_add(1);
  if (waiters_.load() != 0) futex(&sequence_, FUTEX_WAKE, INT_MAX);
}

void Signal::block(uint32_t seen) { futex(&sequence_, FUTEX_WAIT, seen); }

struct SharedStream::Header {
  Signal written;
  Signal freed;
  alignas(64) std::atomic<uint64_t> bytes_written;
};

size_t SharedStream::bytes(int readers, size_t capacity) {
  return sizeof(Header) + sizeof(Position) * static_cast<size_t>(readers) + round_up(capacity, size_t{64});
}

SharedStream::SharedStream(std::byte* memory, int readers, size_t capacity, int spin_rounds)
    : header_(reinterpret_cast<Header*>(memory)),
      positions_(reinterpret_cast<Position*>(memory + sizeof(Header))),
      ring_(memory + sizeof(Header) + sizeof(Position) * static_cast<size_t>(readers)),
      readers_(readers),
      capacity_(capacity),
      spin_rounds_(spin_rounds) {
  CHECK_GT(readers, 0);
  CHECK_GT(capacity, 0u);
}

uint64_t SharedStream::slowest() const {
  uint64_t slowest = positions_[0].bytes.load(std::memory_order_acquire);
  for (int i = 1; i < readers_; ++i) {
    slowest = std::min(slowest, positions_[i].bytes.load(std::memory_order_acquire));
  }
  return slowest;
}

void SharedStream::write(const void* data, size_t bytes) {
  const auto* source = static_cast<const std::byte*>(data);
  uint64_t written = header_->bytes_written.load(std::memory_order_relaxed);
  while (bytes > 0) {
    header_->freed.wait([&] { return written - slowest() < capacity_; }, 0);
    const size_t room = capacity_ - (written - slowest());
    const size_t offset = written % capacity_;
    const size_t chunk = std::min({bytes, room, capacity_ - offset});
    std::memcpy(ring_ + offset, source, chunk);
    written += chunk;
    header_->bytes_written.store(written);
    header_->written.notify();
    source += chunk;
    bytes -= chunk;
  }
}

bool SharedStream::readable(int reader) const {
  return header_->bytes_written.load() > positions_[reader].bytes.load(std::memory_order_relaxed);
}

void SharedStream::read(int reader, void* data, size_t bytes) {
  auto* target = static_cast<std::byte*>(data);
  uint64_t position = positions_[reader].bytes.load(std::memory_order_relaxed);
  while (bytes > 0) {
    header_->written.wait([&] { return header_->bytes_written.load() > position; }, spin_rounds_);
    const size_t ready = header_->bytes_written.load() - position;
    const size_t offset = position % capacity_;
    const size_t chunk = std::min({bytes, ready, capacity_ - offset});
    std::memcpy(target, ring_ + offset, chunk);
    position += chunk;
    positions_[reader].bytes.store(position);
    header_->freed.notify();
    target += chunk;
    bytes -= chunk;
  }
}

void SharedStream::write_message(std::string_view message) {
  const uint64_t size = message.size();
  CHECK_LE(size, kMessageBytesMax);
  std::string framed(reinterpret_cast<const char*>(&size), sizeof size);
  framed += message;
  write(framed.data(), framed.size());
}

std::string SharedStream::read_message(int reader) {
  uint64_t size = 0;
  read(reader, &size, sizeof size);
  CHECK_LE(size, kMessageBytesMax);
  std::string message(size, '\0');
  read(reader, message.data(), message.size());
  return message;
}

}  // namespace skein
