#include "kvcache/prefix_index.h"

#include <gtest/gtest.h>

#include <vector>

namespace skein {
namespace {

using Tokens = std::vector<int32_t>;
using Inserted = PrefixIndex::Inserted;

constexpr Hash128 kRoot{1, 2};
constexpr Hash128 kName{3, 4};

TEST(PrefixIndex, FindsExactlyWhatWasInserted) {
  PrefixIndex index(4, 2);
  EXPECT_FALSE(index.find(kName, kRoot, Tokens{5, 6}).has_value());
  EXPECT_EQ(index.insert(kName, kRoot, Tokens{5, 6}, BlockId{2}), Inserted::kNew);
  EXPECT_EQ(index.find(kName, kRoot, Tokens{5, 6}), BlockId{2});
  EXPECT_FALSE(index.find(kRoot, kRoot, Tokens{5, 6}).has_value());
}

TEST(PrefixIndex, ACollisionIsAMissAndIsNotInserted) {
  PrefixIndex index(4, 2);
  ASSERT_EQ(index.insert(kName, kRoot, Tokens{5, 6}, BlockId{2}), Inserted::kNew);
  EXPECT_FALSE(index.find(kName, kRoot, Tokens{5, 7}).has_value());
  EXPECT_FALSE(index.find(kName, kName, Tokens{5, 6}).has_value());
  EXPECT_EQ(index.insert(kName, kRoot, Tokens{5, 7}, BlockId{3}), Inserted::kCollision);
  EXPECT_EQ(index.insert(kName, kName, Tokens{5, 6}, BlockId{3}), Inserted::kCollision);
  EXPECT_EQ(index.insert(kName, kRoot, Tokens{5, 6}, BlockId{3}), Inserted::kPresent);
  EXPECT_EQ(index.find(kName, kRoot, Tokens{5, 6}), BlockId{2});
}

TEST(PrefixIndex, ForgetsAnErasedBlock) {
  PrefixIndex index(4, 1);
  ASSERT_EQ(index.insert(kName, kRoot, Tokens{5}, BlockId{0}), Inserted::kNew);
  index.erase(BlockId{0});
  EXPECT_FALSE(index.find(kName, kRoot, Tokens{5}).has_value());
  EXPECT_EQ(index.size(), 0u);
  EXPECT_EQ(index.insert(kName, kRoot, Tokens{5}, BlockId{1}), Inserted::kNew);
}

TEST(PrefixHasher, EverythingThatContentDependsOnChangesTheName) {
  PrefixHasher hasher({1});
  PrefixHasher other_key({2});
  const Hash128 root = hasher.root("model", "salt", 0, 16);
  EXPECT_EQ(root, hasher.root("model", "salt", 0, 16));
  EXPECT_NE(root, hasher.root("mode", "lsalt", 0, 16));
  EXPECT_NE(root, hasher.root("model", "", 0, 16));
  EXPECT_NE(root, hasher.root("model", "salt", 1, 16));
  EXPECT_NE(root, hasher.root("model", "salt", 0, 32));
  EXPECT_NE(root, other_key.root("model", "salt", 0, 16));

  const Hash128 next = hasher.next(root, Tokens{1, 2});
  EXPECT_EQ(next, hasher.next(root, Tokens{1, 2}));
  EXPECT_NE(next, hasher.next(root, Tokens{2, 1}));
  EXPECT_NE(next, hasher.next(next, Tokens{1, 2}));
  EXPECT_NE(next, other_key.next(root, Tokens{1, 2}));
}

}  // namespace
}  // namespace skein
