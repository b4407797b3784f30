#include "kvcache/kv_cache.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/checked.h"
#include "kvcache/prefix_index.h"

namespace skein {
namespace {

struct Group {
  explicit Group(const KvGroupConfig& config)
      : block_tokens(config.block_tokens),
        pool(config.blocks),
        index(config.blocks, config.block_tokens) {}

  BlockId take() {
    const auto taken = pool.take();
    CHECK(taken.has_value());
    if (taken->evicted) index.erase(taken->block);
    return taken->block;
  }

  int block_tokens;
  BlockPool pool;
  PrefixIndex index;
};

// What a sequence holds of one group.
struct Table {
  std::vector<BlockId> blocks;
  int committed = 0;    // blocks whose content is final and named
  Hash128 tip;          // name of the last of them, or the root
  bool broken = false;  // a name is taken by other content: nothing further can be named
};

}  // namespace

struct KvCache::State {
  explicit State(KvCacheConfig from) : config(std::move(from)), hasher(config.key) {}

  std::vector<Table>& tables(KvSequence sequence) {
    const auto at = static_cast<size_t>(sequence);
    CHECK_LT(at, sequences.size());
    CHECK(!sequences[at].empty());
    return sequences[at];
  }
  KvSequence add(std::vector<Table> tables) {
    if (unused.empty()) {
      sequences.push_back(std::move(tables));
      return KvSequence{static_cast<int32_t>(sequences.size() - 1)};
    }
    const KvSequence sequence = unused.back();
    unused.pop_back();
    sequences[static_cast<size_t>(sequence)] = std::move(tables);
    return sequence;
  }
  // How many of the leading tokens the group has, by whole blocks; its blocks are appended to
  // *hits.
  int find_prefix(size_t group, std::span<const int32_t> tokens, std::vector<BlockId>* hits,
                  std::vector<Hash128>* names);

  KvCacheConfig config;
  PrefixHasher hasher;
  std::vector<Group> groups;
  int alignment = 1;  // least common multiple of the groups' block_tokens
  std::vector<std::vector<Table>> sequences;  // empty: unused
  std::vector<KvSequence> unused;
};

int KvCache::State::find_prefix(size_t group, std::span<const int32_t> tokens,
                                std::vector<BlockId>* hits, std::vector<Hash128>* names) {
  const auto width = static_cast<size_t>(groups[group].block_tokens);
  for (size_t at = 0; at + width <= tokens.size(); at += width) {
    const auto content = tokens.subspan(at, width);
    const Hash128 name = hasher.next(names->back(), content);
    const auto block = groups[group].index.find(name, names->back(), content);
    if (!block) break;
    hits->push_back(*block);
    names->push_back(name);
  }
  return static_cast<int>(hits->size() * width);
}

KvCache::KvCache(KvCacheConfig config) : state_(std::make_unique<State>(std::move(config))) {
  CHECK(!state_->config.groups.empty());
  for (const KvGroupConfig& group : state_->config.groups) {
    state_->groups.emplace_back(group);
    state_->alignment = std::lcm(state_->alignment, group.block_tokens);
  }
}

KvCache::~KvCache() = default;

int KvCache::groups() const { return static_cast<int>(state_->groups.size()); }

bool KvCache::fits(int64_t tokens) const {
  return std::ranges::all_of(state_->groups, [&](const Group& group) {
    return ceil_div<int64_t>(tokens, group.block_tokens) <= group.pool.size();
  });
}

KvSequence KvCache::open(std::string_view salt) {
  std::vector<Table> tables(state_->groups.size());
  if (state_->config.prefix_caching) {
    for (size_t g = 0; g < tables.size(); ++g) {
      tables[g].tip = state_->hasher.root(state_->config.model, salt, static_cast<int>(g),
                                          state_->groups[g].block_tokens);
    }
  }
  return state_->add(std::move(tables));
}

int KvCache::attach_prefix(KvSequence sequence, std::span<const int32_t> tokens) {
  if (!state_->config.prefix_caching || tokens.empty()) return 0;
  auto& tables = state_->tables(sequence);
  std::vector<std::vector<BlockId>> hits(tables.size());
  std::vector<std::vector<Hash128>> names(tables.size());
  std::span<const int32_t> wanted = tokens.first(tokens.size() - 1);
  for (size_t g = 0; g < tables.size(); ++g) {
    CHECK(tables[g].blocks.empty());
    names[g].push_back(tables[g].tip);
    const int found = state_->find_prefix(g, wanted, &hits[g], &names[g]);
    wanted = wanted.first(static_cast<size_t>(found / state_->alignment * state_->alignment));
  }
  for (size_t g = 0; g < tables.size(); ++g) {
    const size_t count = wanted.size() / static_cast<size_t>(state_->groups[g].block_tokens);
    hits[g].resize(count);
    for (const BlockId block : hits[g]) state_->groups[g].pool.retain(block);
    tables[g].blocks = std::move(hits[g]);
    tables[g].committed = static_cast<int>(count);
    tables[g].tip = names[g][count];
  }
  return static_cast<int>(wanted.size());
}

bool KvCache::grow(KvSequence sequence, int tokens) {
  auto& tables = state_->tables(sequence);
  const auto missing = [&](size_t g) {
    return ceil_div(tokens, state_->groups[g].block_tokens) -
           static_cast<int>(tables[g].blocks.size());
  };
  for (size_t g = 0; g < tables.size(); ++g) {
    if (missing(g) > state_->groups[g].pool.available()) return false;
  }
  for (size_t g = 0; g < tables.size(); ++g) {
    for (int left = missing(g); left > 0; --left) {
      tables[g].blocks.push_back(state_->groups[g].take());
    }
  }
  return true;
}

std::optional<KvSequence> KvCache::fork(KvSequence parent, int shared_tokens, int tokens,
                                        std::vector<KvBlockCopy>* copies) {
  CHECK_LE(shared_tokens, tokens);
  CHECK_LE(shared_tokens, capacity(parent));
  std::vector<Table> tables(state_->groups.size());
  for (size_t g = 0; g < tables.size(); ++g) {
    const Group& group = state_->groups[g];
    const int fresh = ceil_div(tokens, group.block_tokens) - shared_tokens / group.block_tokens;
    if (fresh > group.pool.available()) return std::nullopt;
  }
  for (size_t g = 0; g < tables.size(); ++g) {
    Group& group = state_->groups[g];
    const Table& from = state_->tables(parent)[g];
    const int shared = shared_tokens / group.block_tokens;
    CHECK_LE(from.committed, shared);
    tables[g] = {{from.blocks.begin(), from.blocks.begin() + shared},
                 from.committed, from.tip, from.broken};
    for (const BlockId block : tables[g].blocks) group.pool.retain(block);
    const int needed = ceil_div(tokens, group.block_tokens);
    for (int i = shared; i < needed; ++i) tables[g].blocks.push_back(group.take());
    if (shared_tokens % group.block_tokens != 0) {
      const auto partial = static_cast<size_t>(shared);
      copies->push_back({static_cast<int>(g), from.blocks[partial], tables[g].blocks[partial]});
    }
  }
  return state_->add(std::move(tables));
}

void KvCache::commit(KvSequence sequence, std::span<const int32_t> tokens) {
  if (!state_->config.prefix_caching) return;
  auto& tables = state_->tables(sequence);
  for (size_t g = 0; g < tables.size(); ++g) {
    Table& table = tables[g];
    Group& group = state_->groups[g];
    const auto width = static_cast<size_t>(group.block_tokens);
    while (!table.broken && (static_cast<size_t>(table.committed) + 1) * width <= tokens.size()) {
      const auto at = static_cast<size_t>(table.committed);
      CHECK_LT(at, table.blocks.size());
      const auto content = tokens.subspan(at * width, width);
      const Hash128 name = state_->hasher.next(table.tip, content);
      const auto inserted = group.index.insert(name, table.tip, content, table.blocks[at]);
      if (inserted == PrefixIndex::Inserted::kNew) group.pool.mark_cached(table.blocks[at]);
      table.broken = inserted == PrefixIndex::Inserted::kCollision;
      table.tip = name;
      ++table.committed;
    }
  }
}

void KvCache::release(KvSequence sequence) {
  auto& tables = state_->tables(sequence);
  for (size_t g = 0; g < tables.size(); ++g) {
    // Backwards: a block is evicted before those that it follows, without which it cannot be found.
    auto& blocks = tables[g].blocks;
    for (size_t i = blocks.size(); i-- > 0;) state_->groups[g].pool.release(blocks[i]);
  }
  tables.clear();
  state_->unused.push_back(sequence);
}

std::span<const BlockId> KvCache::blocks(KvSequence sequence, int group) const {
  return state_->tables(sequence)[static_cast<size_t>(group)].blocks;
}

int KvCache::capacity(KvSequence sequence) const {
  int tokens = std::numeric_limits<int>::max();
  const auto& tables = state_->tables(sequence);
  for (size_t g = 0; g < tables.size(); ++g) {
    const auto room = static_cast<int>(tables[g].blocks.size()) * state_->groups[g].block_tokens;
    tokens = std::min(tokens, room);
  }
  return tokens;
}

bool KvCache::writable(KvSequence sequence, int first, int tokens) const {
  const auto& tables = state_->tables(sequence);
  for (size_t g = 0; g < tables.size(); ++g) {
    const Group& group = state_->groups[g];
    const int begin = first / group.block_tokens;
    const int end = ceil_div(first + tokens, group.block_tokens);
    if (begin < tables[g].committed) return false;
    if (end > static_cast<int>(tables[g].blocks.size())) return false;
    for (int i = begin; i < end; ++i) {
      if (group.pool.holders(tables[g].blocks[static_cast<size_t>(i)]) != 1) return false;
    }
  }
  return true;
}

int KvCache::blocks_available() const {
  int fewest = std::numeric_limits<int>::max();
  for (const Group& group : state_->groups) fewest = std::min(fewest, group.pool.available());
  return fewest;
}

KvUsage KvCache::usage(int group) const {
  const BlockPool& pool = state_->groups[static_cast<size_t>(group)].pool;
  return {pool.size(), pool.held(), pool.idle()};
}

int KvCache::sequences() const {
  return static_cast<int>(state_->sequences.size() - state_->unused.size());
}

}  // namespace skein
