#include "kvcache/block_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace skein {
namespace {

TEST(BlockPool, GivesEveryBlockOnceAndThenNone) {
  BlockPool pool(3);
  std::set<BlockId> seen;
  for (int i = 0; i < 3; ++i) {
    const auto taken = pool.take();
    ASSERT_TRUE(taken.has_value());
    EXPECT_FALSE(taken->evicted);
    EXPECT_TRUE(seen.insert(taken->block).second);
  }
  EXPECT_FALSE(pool.take().has_value());
  EXPECT_EQ(pool.held(), 3);
  EXPECT_EQ(pool.available(), 0);
}

TEST(BlockPool, FreesABlockWithItsLastHolder) {
  BlockPool pool(1);
  const BlockId block = pool.take()->block;
  pool.retain(block);
  EXPECT_EQ(pool.holders(block), 2);
  pool.release(block);
  EXPECT_FALSE(pool.take().has_value());
  pool.release(block);
  EXPECT_EQ(pool.take()->block, block);
}

TEST(BlockPool, EvictsTheCachedBlockThatWasLetGoFirst) {
  BlockPool pool(3);
  const BlockId a = pool.take()->block;
  const BlockId b = pool.take()->block;
  const BlockId c = pool.take()->block;
  for (const BlockId block : {a, b, c}) pool.mark_cached(block);
  for (const BlockId block : {b, a, c}) pool.release(block);
  EXPECT_EQ(pool.idle(), 3);
  EXPECT_EQ(pool.held(), 0);

  pool.retain(b);  // found again, and let go last now
  pool.release(b);
  for (const BlockId expected : {a, c, b}) {
    const auto taken = pool.take();
    EXPECT_EQ(taken->block, expected);
    EXPECT_TRUE(taken->evicted);
  }
}

TEST(BlockPool, TakesFreeBlocksBeforeItEvicts) {
  BlockPool pool(2);
  const BlockId cached = pool.take()->block;
  const BlockId plain = pool.take()->block;
  pool.mark_cached(cached);
  pool.release(cached);
  pool.release(plain);
  EXPECT_EQ(pool.take()->block, plain);
  EXPECT_EQ(pool.take()->block, cached);
}

TEST(BlockPool, AnEvictedBlockIsPlainAgain) {
  BlockPool pool(1);
  const BlockId block = pool.take()->block;
  pool.mark_cached(block);
  pool.release(block);
  EXPECT_TRUE(pool.take()->evicted);
  pool.release(block);
  EXPECT_FALSE(pool.take()->evicted);
}

TEST(BlockPoolDeathTest, RefusesToReleaseWhatNobodyHolds) {
  BlockPool pool(1);
  const BlockId block = pool.take()->block;
  pool.release(block);
  EXPECT_DEATH(pool.release(block), "holders");
}

}  // namespace
}  // namespace skein
