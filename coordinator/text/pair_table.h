#pragma once

#include <cstdint>
#include <vector>

namespace skein::text {

// What two neighbouring symbols become, and how soon: the lowest rank first.
struct Merge {
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t rank = kNone;
  int32_t result = -1;
};

// Merges by the pair of ids that they join: an open-addressed table that is at most half full, one
// cache line per lookup as a rule. Immutable once filled, thread-safe.
class PairTable {
 public:
  explicit PairTable(size_t pairs) {
    while ((size_t{1} << bits_) < 2 * pairs) ++bits_;
    slots_.resize(size_t{1} << bits_);
  }

  // A pair that is there already is replaced if `replace`. Requires: ids >= 0, and no more pairs
  // than the table was made for.
  void insert(int32_t left, int32_t right, Merge merge, bool replace) {
    Slot& slot = slots_[place(key(left, right))];
    if (slot.key == kEmpty || replace) slot = {key(left, right), merge};
  }

  // Merge::kNone as the rank where there is none.
  Merge find(int32_t left, int32_t right) const { return slots_[place(key(left, right))].merge; }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  size_t place(uint64_t key) const {
    uint64_t hash = key * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93u;
    size_t slot = hash >> (64 - bits_);
    while (slots_[slot].key != key && slots_[slot].key != kEmpty) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    return slot;
  }

  int bits_ = 4;
  std::vector<Slot> slots_;
};

}  // namespace skein::text
