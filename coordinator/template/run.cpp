#include "coordinator/template/run.h"

#include <algorithm>

namespace skein::jinja {
namespace {

constexpr size_t kBlockBytes = 32 << 10;
constexpr size_t kAlignment = 16;
// Levels of the syntax tree that one macro call may take, on average. Bounds the stack: a level
// takes well under 1 KiB.
constexpr int kLevelsPerCall = 8;
constexpr size_t kSmallDict = 8;

}  // namespace

Status Run::error(std::string_view what) const {
  return invalid_argument("line " + std::to_string(line_) + ": " + std::string(what));
}

Status Run::charge(int64_t steps) {
  steps_ += steps;
  if (steps_ <= limits_.steps_max) return {};
  exhausted_ = true;
  return error("the template takes more than " + std::to_string(limits_.steps_max) + " steps");
}

Status Run::over_memory() {
  exhausted_ = true;
  return error("the template's values take more than " + std::to_string(limits_.memory_bytes_max) +
               " bytes");
}

Status Run::reserve(size_t bytes) {
  if (bytes > limits_.memory_bytes_max - memory_) return over_memory();
  memory_ += bytes;
  return {};
}

Result<void*> Run::allocate_bytes(size_t bytes) {
  bytes = (bytes + kAlignment - 1) & ~(kAlignment - 1);
  RETURN_IF_ERROR(reserve(bytes));
  if (bytes > free_bytes_) {
    const size_t block = std::max(bytes, kBlockBytes);
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(block));
    free_ = blocks_.back().get();
    free_bytes_ = block;
  }
  void* result = free_;
  free_ += bytes;
  free_bytes_ -= bytes;
  return result;
}

Result<Value> Run::text(std::string_view text) {
  RETURN_IF_ERROR(charge_bytes(text.size()));
  ASSIGN_OR_RETURN(char* const copy, allocate<char>(text.size()));
  if (!text.empty()) std::memcpy(copy, text.data(), text.size());
  return Value::string({copy, text.size()});
}

Result<Value> Run::sequence(Kind kind, std::span<const Value> items) {
  ASSIGN_OR_RETURN(Value* const copy, allocate<Value>(items.size()));
  std::uninitialized_copy(items.begin(), items.end(), copy);
  Value value;
  value.kind = kind;
  value.items = copy;
  value.size = items.size();
  return value;
}

Result<Value> Run::iterator(std::span<const Value> items) {
  ASSIGN_OR_RETURN(const Value list, sequence(Kind::kList, items));
  ASSIGN_OR_RETURN(
      Iterator* const iterator,
      make(Iterator{.items = list.items, .size = list.size, .position = 0, .error = -1}));
  Value value;
  value.kind = Kind::kIterator;
  value.iterator = iterator;
  return value;
}

Result<Value> Run::failing_iterator(std::span<const Value> items, Status error) {
  ASSIGN_OR_RETURN(const Value value, iterator(items));
  RETURN_IF_ERROR(reserve(sizeof(Status) + error.message().size()));
  value.iterator->error = static_cast<int>(deferred_.size());
  deferred_.push_back(std::move(error));
  return value;
}

Status Nesting::status() const {
  if (run_.depth_ <= run_.limits_.call_depth_max * kLevelsPerCall) return {};
  run_.exhausted_ = true;
  return run_.error("the template nests calls, values or expressions too deeply");
}

Status ListBuilder::push(const Value& value) {
  RETURN_IF_ERROR(run_.charge(1));
  // finish() counts the copy.
  if (items_.size() == items_.capacity()) {
    RETURN_IF_ERROR(run_.reserve((items_.size() + 1) * sizeof(Value)));
  }
  items_.push_back(value);
  return {};
}

Status DictBuilder::grow() {
  const size_t size = slots_.empty() ? 4 * kSmallDict : 2 * slots_.size();
  RETURN_IF_ERROR(run_.charge(static_cast<int64_t>(entries_.size() >> 3)));
  RETURN_IF_ERROR(run_.reserve(size * sizeof(uint32_t)));
  slots_.assign(size, 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = hashes_[i] & (size - 1);
    while (slots_[slot] != 0) {
      RETURN_IF_ERROR(run_.charge(1));
      slot = (slot + 1) & (size - 1);
    }
    slots_[slot] = static_cast<uint32_t>(i + 1);
  }
  return {};
}

Status DictBuilder::set(const Value& key, const Value& value) {
  ASSIGN_OR_RETURN(const uint64_t key_hash, hash(run_, key));
  if (2 * entries_.size() >= slots_.size()) RETURN_IF_ERROR(grow());
  size_t slot = key_hash & (slots_.size() - 1);
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    RETURN_IF_ERROR(run_.charge(1));
    const size_t index = slots_[slot] - 1;
    if (hashes_[index] != key_hash) continue;
    ASSIGN_OR_RETURN(const bool same, equal(run_, entries_[index].key, key));
    if (!same) continue;
    entries_[index].value = value;
    return {};
  }
  RETURN_IF_ERROR(run_.reserve(sizeof(Entry) + sizeof(uint64_t)));
  slots_[slot] = static_cast<uint32_t>(entries_.size() + 1);
  entries_.push_back({key, value});
  hashes_.push_back(key_hash);
  return {};
}

Result<Value> DictBuilder::finish() {
  ASSIGN_OR_RETURN(Entry* const entries, run_.allocate<Entry>(entries_.size()));
  std::uninitialized_copy(entries_.begin(), entries_.end(), entries);
  Dict dict{.entries = entries, .size = entries_.size(), .slots = nullptr, .slot_mask = 0};
  if (entries_.size() > kSmallDict) {
    ASSIGN_OR_RETURN(uint32_t* const slots, run_.allocate<uint32_t>(slots_.size()));
    std::copy(slots_.begin(), slots_.end(), slots);
    dict.slots = slots;
    dict.slot_mask = slots_.size() - 1;
  }
  ASSIGN_OR_RETURN(const Dict* const made, run_.make(dict));
  Value value;
  value.kind = Kind::kDict;
  value.dict = made;
  return value;
}

}  // namespace skein::jinja
