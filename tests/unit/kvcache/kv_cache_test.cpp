#include "kvcache/kv_cache.h"

#include <gtest/gtest.h>

#include <numeric>

namespace skein {
namespace {

std::vector<int32_t> counting(int from, int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

KvCacheConfig one_group(int blocks, int block_tokens) {
  return {.groups = {{.blocks = blocks, .block_tokens = block_tokens}},
          .prefix_caching = true,
          .key = {7},
          .model = "m"};
}

std::vector<BlockId> table(const KvCache& cache, KvSequence sequence, int group = 0) {
  const auto blocks = cache.blocks(sequence, group);
  return {blocks.begin(), blocks.end()};
}

// A sequence that has computed these tokens.
KvSequence computed(KvCache& cache, const std::vector<int32_t>& tokens, const char* salt = "") {
  const KvSequence sequence = cache.open(salt);
  EXPECT_TRUE(cache.grow(sequence, static_cast<int>(tokens.size())));
  cache.commit(sequence, tokens);
  return sequence;
}

int hit(KvCache& cache, const std::vector<int32_t>& tokens, const char* salt = "") {
  const KvSequence sequence = cache.open(salt);
  const int found = cache.attach_prefix(sequence, tokens);
  EXPECT_EQ(cache.capacity(sequence), found);
  cache.release(sequence);
  return found;
}

TEST(KvCache, GrowsByWholeBlocksOrNotAtAll) {
  KvCache cache(one_group(4, 4));
  const KvSequence a = cache.open("");
  const KvSequence b = cache.open("");
  EXPECT_TRUE(cache.grow(a, 1));
  EXPECT_EQ(cache.capacity(a), 4);
  EXPECT_TRUE(cache.grow(a, 4));
  EXPECT_EQ(cache.blocks(a, 0).size(), 1u);
  EXPECT_TRUE(cache.grow(b, 5));
  EXPECT_FALSE(cache.grow(a, 13));
  EXPECT_EQ(cache.capacity(a), 4);
  EXPECT_EQ(cache.usage(0).held, 3);
  cache.release(b);
  EXPECT_TRUE(cache.grow(a, 13));
  EXPECT_EQ(cache.blocks_available(), 0);
  cache.release(a);
  EXPECT_EQ(cache.usage(0).held, 0);
  EXPECT_EQ(cache.sequences(), 0);
}

TEST(KvCache, SaysWhatFitsAlone) {
  KvCache cache({.groups = {{.blocks = 4, .block_tokens = 4}, {.blocks = 2, .block_tokens = 6}}});
  EXPECT_TRUE(cache.fits(12));
  EXPECT_FALSE(cache.fits(13));
  EXPECT_FALSE(cache.fits(int64_t{1} << 40));
}

TEST(KvCache, FindsTheLongestCommittedPrefixButNeverAllOfThePrompt) {
  KvCache cache(one_group(16, 4));
  const auto tokens = counting(0, 12);
  const KvSequence first = cache.open("");
  ASSERT_TRUE(cache.grow(first, 12));
  EXPECT_EQ(hit(cache, tokens), 0) << "nothing has been computed";
  cache.commit(first, std::span(tokens).first(7));
  EXPECT_EQ(hit(cache, tokens), 4) << "only full blocks count";
  cache.commit(first, tokens);
  EXPECT_EQ(hit(cache, tokens), 8) << "the last token must be computed";
  EXPECT_EQ(hit(cache, counting(0, 13)), 12);
  auto different = counting(0, 13);
  different[6] = 99;
  EXPECT_EQ(hit(cache, different), 4);
  EXPECT_EQ(hit(cache, counting(1, 13)), 0);
  EXPECT_EQ(hit(cache, counting(0, 1)), 0);

  const KvSequence second = cache.open("");
  EXPECT_EQ(cache.attach_prefix(second, counting(0, 13)), 12);
  EXPECT_EQ(table(cache, second), table(cache, first));
}

TEST(KvCache, SaltsSeparate) {
  KvCache cache(one_group(16, 4));
  computed(cache, counting(0, 8), "a");
  EXPECT_EQ(hit(cache, counting(0, 8), "a"), 4);
  EXPECT_EQ(hit(cache, counting(0, 8), "b"), 0);
  EXPECT_EQ(hit(cache, counting(0, 8)), 0);
}

TEST(KvCache, ReleasedContentStaysUntilItsRoomIsNeededTheEndFirst) {
  KvCache cache(one_group(4, 4));
  cache.release(computed(cache, counting(0, 12)));
  EXPECT_EQ(cache.usage(0).held, 0);
  EXPECT_EQ(cache.usage(0).idle, 3);
  EXPECT_EQ(hit(cache, counting(0, 13)), 12);

  const KvSequence other = cache.open("");
  ASSERT_TRUE(cache.grow(other, 8));  // the free block and one of the three
  EXPECT_EQ(hit(cache, counting(0, 13)), 8);
  ASSERT_TRUE(cache.grow(other, 16));
  EXPECT_EQ(hit(cache, counting(0, 13)), 0);
  cache.release(other);
}

TEST(KvCache, SharedBlocksOutliveTheSequenceThatComputedThem) {
  KvCache cache(one_group(3, 4));
  const KvSequence first = computed(cache, counting(0, 8));
  const KvSequence second = cache.open("");
  ASSERT_EQ(cache.attach_prefix(second, counting(0, 9)), 8);
  const auto shared = table(cache, second);
  cache.release(first);
  EXPECT_EQ(cache.usage(0).held, 2);
  const KvSequence third = cache.open("");
  EXPECT_FALSE(cache.grow(third, 8));
  EXPECT_TRUE(cache.grow(third, 4));
  for (const BlockId block : shared) EXPECT_NE(cache.blocks(third, 0)[0], block);
}

TEST(KvCache, ForkSharesFullBlocksAndCopiesTheRest) {
  KvCache cache(one_group(8, 4));
  const KvSequence parent = computed(cache, counting(0, 6));
  std::vector<KvBlockCopy> copies;
  const auto child = cache.fork(parent, 6, 9, &copies);
  ASSERT_TRUE(child.has_value());
  const auto from = table(cache, parent);
  const auto to = table(cache, *child);
  ASSERT_EQ(to.size(), 3u);
  EXPECT_EQ(to[0], from[0]);
  EXPECT_NE(to[1], from[1]);
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].source, from[1]);
  EXPECT_EQ(copies[0].destination, to[1]);

  EXPECT_FALSE(cache.writable(*child, 3, 2));
  EXPECT_TRUE(cache.writable(*child, 4, 5));
  EXPECT_FALSE(cache.writable(*child, 4, 9)) << "there is no place that far";
  EXPECT_TRUE(cache.writable(parent, 6, 2));
  cache.release(parent);
  EXPECT_EQ(cache.usage(0).held, 3);
  cache.release(*child);
  EXPECT_EQ(cache.usage(0).held, 0);
}

TEST(KvCache, ForkAtABlocksEndCopiesNothing) {
  KvCache cache(one_group(8, 4));
  const KvSequence parent = computed(cache, counting(0, 8));
  std::vector<KvBlockCopy> copies;
  const auto child = cache.fork(parent, 8, 9, &copies);
  ASSERT_TRUE(child.has_value());
  EXPECT_TRUE(copies.empty());
  // It goes on naming blocks where its parent was.
  ASSERT_TRUE(cache.grow(*child, 12));
  cache.commit(*child, counting(0, 12));
  EXPECT_EQ(hit(cache, counting(0, 13)), 12);
}

TEST(KvCache, ForkThatDoesNotFitTakesNothing) {
  KvCache cache(one_group(2, 4));
  const KvSequence parent = computed(cache, counting(0, 6));
  std::vector<KvBlockCopy> copies;
  EXPECT_FALSE(cache.fork(parent, 6, 7, &copies).has_value());
  EXPECT_TRUE(copies.empty());
  EXPECT_EQ(cache.sequences(), 1);
  EXPECT_TRUE(cache.writable(parent, 4, 4));
}

TEST(KvCache, GroupsAgreeOnAPrefixThatEndsBlocksInAll) {
  KvCache cache({.groups = {{.blocks = 16, .block_tokens = 4}, {.blocks = 16, .block_tokens = 6}},
                 .model = "m"});
  const auto tokens = counting(0, 20);
  computed(cache, tokens);
  EXPECT_EQ(hit(cache, tokens), 12);
  EXPECT_EQ(hit(cache, counting(0, 12)), 0) << "12 is all of it";
}

TEST(KvCache, AGroupThatLostItsBlocksShortensThePrefix) {
  KvCache cache({.groups = {{.blocks = 16, .block_tokens = 2}, {.blocks = 3, .block_tokens = 4}},
                 .model = "m"});
  cache.release(computed(cache, counting(0, 12)));
  EXPECT_EQ(hit(cache, counting(0, 13)), 12);
  const KvSequence other = cache.open("");
  ASSERT_TRUE(cache.grow(other, 4));  // evicts in the second group only
  EXPECT_EQ(cache.usage(0).idle, 6);
  EXPECT_EQ(hit(cache, counting(0, 13)), 8);
}

TEST(KvCache, WithoutCachingNothingIsFoundOrKept) {
  KvCacheConfig config = one_group(4, 4);
  config.prefix_caching = false;
  KvCache cache(config);
  cache.release(computed(cache, counting(0, 8)));
  EXPECT_EQ(hit(cache, counting(0, 9)), 0);
  EXPECT_EQ(cache.usage(0).idle, 0);
}

TEST(KvCache, EqualContentComputedTwiceIsKeptOnce) {
  KvCache cache(one_group(4, 4));
  const KvSequence a = computed(cache, counting(0, 4));
  const KvSequence b = computed(cache, counting(0, 4));
  cache.release(b);
  EXPECT_EQ(cache.usage(0).idle, 0);
  cache.release(a);
  EXPECT_EQ(cache.usage(0).idle, 1);
  EXPECT_EQ(hit(cache, counting(0, 5)), 4);
}

}  // namespace
}  // namespace skein
