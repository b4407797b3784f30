#include "kvcache/block_pool.h"

#include "base/check.h"

namespace skein {

BlockPool::BlockPool(int blocks) {
  CHECK_GT(blocks, 0);
  blocks_.resize(static_cast<size_t>(blocks) + 1);
  blocks_.back().previous = blocks_.back().next = blocks;
  free_.reserve(static_cast<size_t>(blocks));
  for (int i = blocks; i-- > 0;) free_.push_back(BlockId{i});
}

std::optional<BlockPool::Taken> BlockPool::take() {
  if (!free_.empty()) {
    const BlockId block = free_.back();
    free_.pop_back();
    at(block).holders = 1;
    return Taken{block, false};
  }
  if (idle_ == 0) return std::nullopt;
  const BlockId oldest{blocks_.back().next};
  Block& block = at(oldest);
  unlink(block);
  block.cached = false;
  block.holders = 1;
  return Taken{oldest, true};
}

void BlockPool::retain(BlockId id) {
  Block& block = at(id);
  if (block.holders == 0) {
    CHECK(block.cached);
    unlink(block);
  }
  ++block.holders;
}

void BlockPool::release(BlockId id) {
  Block& block = at(id);
  CHECK_GT(block.holders, 0);
  if (--block.holders > 0) return;
  if (!block.cached) {
    free_.push_back(id);
    return;
  }
  Block& head = blocks_.back();
  block.previous = head.previous;
  block.next = size();
  blocks_[static_cast<size_t>(head.previous)].next = value_of(id);
  head.previous = value_of(id);
  ++idle_;
}

void BlockPool::mark_cached(BlockId id) {
  Block& block = at(id);
  CHECK_GT(block.holders, 0);
  CHECK(!block.cached);
  block.cached = true;
}

int BlockPool::holders(BlockId block) const {
  return const_cast<BlockPool*>(this)->at(block).holders;
}

BlockPool::Block& BlockPool::at(BlockId block) {
  CHECK(value_of(block) >= 0 && value_of(block) < size());
  return blocks_[static_cast<size_t>(value_of(block))];
}

void BlockPool::unlink(Block& block) {
  blocks_[static_cast<size_t>(block.previous)].next = block.next;
  blocks_[static_cast<size_t>(block.next)].previous = block.previous;
  block.previous = block.next = -1;
  --idle_;
}

}  // namespace skein
