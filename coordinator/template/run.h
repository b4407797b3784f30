#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "coordinator/template/chat_template.h"
#include "coordinator/template/value.h"

namespace skein::jinja {

// One rendering: its limits, the memory that its values live in, and the line it is at.
// Single-owner. Values hold plain pointers into this memory, so a template can neither leak it nor
// build a chain that is deep to destroy; all of it goes with the Run.
class Run {
 public:
  explicit Run(const TemplateLimits& limits) : limits_(limits) {}
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  const TemplateLimits& limits() const { return limits_; }

  // The line that errors name.
  void at(int line) { line_ = line; }
  int line() const { return line_; }
  // kInvalidArgument: "line N: <what>".
  Status error(std::string_view what) const;
  // True after a limit was passed: such an error must end the rendering.
  bool exhausted() const { return exhausted_; }

  // Counts work against steps_max.
  Status charge(int64_t steps);
  // Work over that many bytes of text.
  Status charge_bytes(size_t bytes) { return charge(static_cast<int64_t>(bytes >> 6)); }
  // Counts bytes against memory_bytes_max.
  Status reserve(size_t bytes);

  // Uninitialised memory for `count` objects, which are never destroyed.
  template <typename T>
  Result<T*> allocate(size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    if (count > limits_.memory_bytes_max / sizeof(T)) return over_memory();
    auto bytes = allocate_bytes(count * sizeof(T));
    if (!bytes.ok()) return bytes.status();
    return static_cast<T*>(*bytes);
  }

  template <typename T>
  Result<T*> make(T object) {
    auto memory = allocate<T>(1);
    if (!memory.ok()) return memory.status();
    return new (*memory) T(object);
  }

  // A copy of `text`.
  Result<Value> text(std::string_view text);
  // A list or tuple with a copy of `items`.
  Result<Value> sequence(Kind kind, std::span<const Value> items);
  Result<Value> iterator(std::span<const Value> items);
  // An iterator that fails with `error` after its items.
  Result<Value> failing_iterator(std::span<const Value> items, Status error);
  const Status& deferred(int error) const { return deferred_[error]; }

 private:
  friend class Nesting;
  Status over_memory();
  Result<void*> allocate_bytes(size_t bytes);

  const TemplateLimits& limits_;
  int line_ = 1;
  bool exhausted_ = false;
  int64_t steps_ = 0;
  size_t memory_ = 0;
  int depth_ = 0;
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* free_ = nullptr;
  size_t free_bytes_ = 0;
  std::vector<Status> deferred_;
};

// Guards one level of recursion, over values or over the syntax tree. Check status() before going
// deeper.
class Nesting {
 public:
  explicit Nesting(Run& run) : run_(run) { ++run_.depth_; }
  ~Nesting() { --run_.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  Status status() const;

 private:
  Run& run_;
};

// Collects the items of a list; the memory is counted as they come.
class ListBuilder {
 public:
  explicit ListBuilder(Run& run) : run_(run) {}
  Status push(const Value& value);
  size_t size() const { return items_.size(); }
  std::vector<Value>& items() { return items_; }
  Result<Value> finish(Kind kind = Kind::kList) { return run_.sequence(kind, items_); }

 private:
  Run& run_;
  std::vector<Value> items_;
};

// Collects a dict in insertion order; a key that comes again replaces the value.
class DictBuilder {
 public:
  explicit DictBuilder(Run& run) : run_(run) {}
  // Fails for a key that cannot be hashed.
  Status set(const Value& key, const Value& value);
  size_t size() const { return entries_.size(); }
  Result<Value> finish();

 private:
  Status grow();

  Run& run_;
  std::vector<Entry> entries_;
  std::vector<uint64_t> hashes_;
  std::vector<uint32_t> slots_;
};

}  // namespace skein::jinja
