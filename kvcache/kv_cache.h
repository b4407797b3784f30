#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/block_pool.h"
#include "kvcache/siphash.h"

namespace skein {

struct KvGroupConfig {
  int blocks = 0;        // in the pool, the same on every rank
  int block_tokens = 16;
};

struct KvCacheConfig {
  std::vector<KvGroupConfig> groups;  // one or more
  bool prefix_caching = true;
  SipKey key = {};    // random, the same for all replicas that share hashes
  std::string model = {};  // names weights, adapter, KV format: different content, different name
};

// A sequence that holds blocks.
enum class KvSequence : int32_t {};

struct KvBlockCopy {
  int group = 0;
  BlockId source{};
  BlockId destination{};
};

struct KvUsage {
  int blocks = 0;
  int held = 0;  // by sequences
  int idle = 0;  // held by nobody, content findable until the room is needed
};

// Who holds which blocks of every KV group, and which blocks already hold the content of a prefix.
// Knows nothing of devices: it decides, and the caller has it carried out in the same order.
// Single-owner.
class KvCache {
 public:
  // Requires: valid counts in every group.
  explicit KvCache(KvCacheConfig config);
  ~KvCache();

  int groups() const;
  // Whether a sequence of that many tokens fits when it is alone.
  bool fits(int64_t tokens) const;

  // A new sequence without blocks; only equal salts share content.
  KvSequence open(std::string_view salt);
  // Shares the blocks of the longest cached prefix that leaves at least the last of `tokens` to be
  // computed, and returns its length, a multiple of every group's block_tokens. Requires: the
  // sequence has no blocks.
  int attach_prefix(KvSequence sequence, std::span<const int32_t> tokens);
  // Adds blocks until `tokens` tokens have a place: all of them, or none and false.
  [[nodiscard]] bool grow(KvSequence sequence, int tokens);
  // A sequence that shares the first `shared_tokens` of `parent` and has room for `tokens`: full
  // blocks are shared, what is left is copied (appended to *copies; to be done before either writes
  // on). All, or nothing. Requires: shared_tokens <= tokens, and the parent has room for
  // shared_tokens.
  std::optional<KvSequence> fork(KvSequence parent, int shared_tokens, int tokens,
                                 std::vector<KvBlockCopy>* copies);
  // The first `tokens.size()` positions have been computed from exactly these tokens, on every
  // rank: their full blocks may be shared from now on.
  void commit(KvSequence sequence, std::span<const int32_t> tokens);
  // Gives back every block. The sequence is gone.
  void release(KvSequence sequence);

  std::span<const BlockId> blocks(KvSequence sequence, int group) const;
  int capacity(KvSequence sequence) const;  // tokens that have a place
  // Whether nobody else holds the blocks of these positions, and none of them is shared content.
  bool writable(KvSequence sequence, int first, int tokens) const;
  int blocks_available() const;  // in the group that has the fewest
  KvUsage usage(int group) const;
  int sequences() const;  // open

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skein
