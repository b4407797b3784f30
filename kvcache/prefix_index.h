#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvcache/block_pool.h"
#include "kvcache/siphash.h"

namespace skein {

// Names the content of a block by everything that it was computed from: a chain of keyed hashes.
// Immutable but for its scratch space: single-owner.
class PrefixHasher {
 public:
  explicit PrefixHasher(const SipKey& key) : key_(key) {}

  // Where the chains of one kind begin; `model` names weights, adapter and KV format.
  Hash128 root(std::string_view model, std::string_view salt, int group, int block_tokens);
  // The block of `tokens` after `parent`.
  Hash128 next(const Hash128& parent, std::span<const int32_t> tokens);

 private:
  SipKey key_;
  std::string scratch_;
};

// Which block of one KV group holds the content of which hash; a block is in it at most once.
// Tokens and parent are compared on every hit, so that a collision of hashes is a miss.
// Single-owner.
class PrefixIndex {
 public:
  PrefixIndex(int blocks, int block_tokens);

  std::optional<BlockId> find(const Hash128& hash, const Hash128& parent,
                              std::span<const int32_t> tokens) const;

  enum class Inserted : uint8_t {
    kNew,
    kPresent,    // another block, or this one, holds the same content already
    kCollision,  // the hash is taken by other content; nothing may be chained to it
  };
  // Requires: tokens.size() == block_tokens; the block is not in the index under another hash.
  Inserted insert(const Hash128& hash, const Hash128& parent, std::span<const int32_t> tokens,
                  BlockId block);
  // Requires: the block is in the index.
  void erase(BlockId block);

  size_t size() const { return blocks_.size(); }

 private:
  struct KeyedAlready {
    size_t operator()(const Hash128& hash) const { return static_cast<size_t>(hash.low); }
  };
  struct Content {
    Hash128 hash;
    Hash128 parent;
  };

  bool same(BlockId block, const Hash128& parent, std::span<const int32_t> tokens) const;

  int block_tokens_;
  std::unordered_map<Hash128, BlockId, KeyedAlready> blocks_;
  std::vector<Content> contents_;  // (blocks)
  std::vector<int32_t> tokens_;    // (blocks, block_tokens)
};

}  // namespace skein
