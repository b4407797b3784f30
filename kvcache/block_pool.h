#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <vector>

namespace skein {

// A physical block of one KV group, the same on every rank.
enum class BlockId : int32_t {};

constexpr int32_t value_of(BlockId block) { return static_cast<int32_t>(block); }
inline std::ostream& operator<<(std::ostream& out, BlockId block) { return out << value_of(block); }

// The blocks of one KV group, each with a count of the sequences that hold it. A block that nobody
// holds is free, or, if it was marked as cached, stays as it is until the pool needs it: the one
// that was let go first goes first. Single-owner.
class BlockPool {
 public:
  // Requires: blocks > 0.
  explicit BlockPool(int blocks);

  struct Taken {
    BlockId block;
    bool evicted;  // it held cached content, which is lost now
  };
  // A block with count 1, free ones first; nothing if every block is held.
  std::optional<Taken> take();
  // One more holder. Requires: the block is held or cached.
  void retain(BlockId block);
  // One holder less. Requires: held.
  void release(BlockId block);
  // Keep the content when the last holder goes. Requires: held, not yet marked.
  void mark_cached(BlockId block);

  int holders(BlockId block) const;
  int size() const { return static_cast<int>(blocks_.size()) - 1; }
  // How many times take() gives a block.
  int available() const { return static_cast<int>(free_.size()) + idle_; }
  int idle() const { return idle_; }  // cached and held by nobody
  int held() const { return size() - available(); }

 private:
  struct Block {
    int holders = 0;
    bool cached = false;
    // Neighbours in the circle of idle blocks, oldest first; blocks_.back() is its head.
    int32_t previous = -1;
    int32_t next = -1;
  };

  Block& at(BlockId block);
  void unlink(Block& block);

  std::vector<Block> blocks_;
  std::vector<BlockId> free_;
  int idle_ = 0;
};

}  // namespace skein
