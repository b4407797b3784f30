#include "kvcache/prefix_index.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/check.h"

namespace skein {

Hash128 PrefixHasher::root(std::string_view model, std::string_view salt, int group,
                           int block_tokens) {
  scratch_.clear();
  ByteWriter writer(&scratch_);
  writer.put_text(model);
  writer.put_text(salt);
  writer.put(group);
  writer.put(block_tokens);
  return siphash128(key_, std::as_bytes(std::span(scratch_)));
}

Hash128 PrefixHasher::next(const Hash128& parent, std::span<const int32_t> tokens) {
  scratch_.clear();
  ByteWriter writer(&scratch_);
  writer.put(parent.low);
  writer.put(parent.high);
  writer.put_array(tokens);
  return siphash128(key_, std::as_bytes(std::span(scratch_)));
}

PrefixIndex::PrefixIndex(int blocks, int block_tokens) : block_tokens_(block_tokens) {
  CHECK_GT(block_tokens, 0);
  const auto count = static_cast<size_t>(blocks);
  blocks_.reserve(count);
  contents_.resize(count);
  tokens_.resize(count * static_cast<size_t>(block_tokens));
}

std::optional<BlockId> PrefixIndex::find(const Hash128& hash, const Hash128& parent,
                                         std::span<const int32_t> tokens) const {
  const auto found = blocks_.find(hash);
  if (found == blocks_.end() || !same(found->second, parent, tokens)) return std::nullopt;
  return found->second;
}

PrefixIndex::Inserted PrefixIndex::insert(const Hash128& hash, const Hash128& parent,
                                          std::span<const int32_t> tokens, BlockId block) {
  CHECK_EQ(tokens.size(), static_cast<size_t>(block_tokens_));
  const auto [found, inserted] = blocks_.try_emplace(hash, block);
  if (!inserted) {
    return same(found->second, parent, tokens) ? Inserted::kPresent : Inserted::kCollision;
  }
  const auto at = static_cast<size_t>(value_of(block));
  contents_[at] = {hash, parent};
  std::ranges::copy(tokens, tokens_.begin() + static_cast<ptrdiff_t>(at) * block_tokens_);
  return Inserted::kNew;
}

void PrefixIndex::erase(BlockId block) {
  const auto found = blocks_.find(contents_[static_cast<size_t>(value_of(block))].hash);
  CHECK(found != blocks_.end() && found->second == block);
  blocks_.erase(found);
}

bool PrefixIndex::same(BlockId block, const Hash128& parent,
                       std::span<const int32_t> tokens) const {
  const auto at = static_cast<size_t>(value_of(block));
  const auto width = static_cast<size_t>(block_tokens_);
  return contents_[at].parent == parent &&
         std::ranges::equal(tokens, std::span(tokens_).subspan(at * width, width));
}

}  // namespace skein
