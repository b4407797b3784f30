#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

// Waiting and byte streams between the ranks of one node, in shared memory.

namespace skein {

// A condition that processes wait for: a short spin, then a futex, so that an idle waiter costs nothing. Lives in
// zeroed shared memory. Thread-safe.
class Signal {
 public:
  // Call after changing what a waiter's predicate reads.
  void notify();
  template <typename Predicate>
  void wait(Predicate ready, int spin_rounds) {
    for (int i = 0; i < spin_rounds; ++i) {
      if (ready()) return;
      pause();
    }
    while (!ready()) {
      const uint32_t seen = sequence_.load();
      waiters_.fetch_add(1);
      if (!ready()) block(seen);
      waiters_.fetch_sub(1);
    }
  }

 private:
  static void pause();
  void block(uint32_t seen);  // until notify() or for no reason
  alignas(64) std::atomic<uint32_t> sequence_;
  std::atomic<uint32_t> waiters_;
};

// A byte stream from one writer to `readers` readers, each of which sees every byte. A write blocks while the slowest
// reader has left no room. This object is one process's view; the state lies in `memory`.
class SharedStream {
 public:
  static size_t bytes(int readers, size_t capacity);  // of memory, a multiple of 64
  SharedStream() = default;
  // `memory`: zeroed, 64-byte aligned, the same for everyone.
  SharedStream(std::byte* memory, int readers, size_t capacity, int spin_rounds);

  void write(const void* data, size_t bytes);
  void read(int reader, void* data, size_t bytes);
  bool readable(int reader) const;  // there is a byte that it has not read
  // A length, then that many bytes.
  void write_message(std::string_view message);
  std::string read_message(int reader);

 private:
  struct Header;
  struct alignas(64) Position {
    std::atomic<uint64_t> bytes;
  };
  uint64_t slowest() const;

  Header* header_ = nullptr;
  Position* positions_ = nullptr;  // (readers)
  std::byte* ring_ = nullptr;
  int readers_ = 0;
  size_t capacity_ = 0;
  int spin_rounds_ = 0;
};

}  // namespace skein
