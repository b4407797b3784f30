#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace skein::text {

// A priority queue of 64-bit keys, smallest first: a heap with four children per node, so that a
// step touches one cache line and a million keys are ten steps deep. Single-owner.
class CandidateQueue {
 public:
  bool empty() const { return heap_.empty(); }
  void clear() { heap_.clear(); }

  // Adds without order; restore() must follow before anything else.
  void append(uint64_t key) { heap_.push_back(key); }
  void restore() {
    if (heap_.size() < 2) return;
    for (size_t node = (heap_.size() - 2) / kChildren + 1; node-- > 0;) sink(node, heap_[node]);
  }

  void push(uint64_t key) {
    size_t node = heap_.size();
    heap_.push_back(key);
    while (node > 0) {
      const size_t parent = (node - 1) / kChildren;
      if (heap_[parent] <= key) break;
      heap_[node] = heap_[parent];
      node = parent;
    }
    heap_[node] = key;
  }

  // Requires: !empty().
  uint64_t pop() {
    const uint64_t smallest = heap_.front();
    const uint64_t last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(0, last);
    return smallest;
  }

 private:
  static constexpr size_t kChildren = 4;

  void sink(size_t node, uint64_t key) {
    const size_t size = heap_.size();
    for (size_t child; (child = node * kChildren + 1) < size; node = child) {
      const size_t end = std::min(child + kChildren, size);
      for (size_t other = child + 1; other < end; ++other) {
        if (heap_[other] < heap_[child]) child = other;
      }
      if (heap_[child] >= key) break;
      heap_[node] = heap_[child];
    }
    heap_[node] = key;
  }

  std::vector<uint64_t> heap_;
};

}  // namespace skein::text
