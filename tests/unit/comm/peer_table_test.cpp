#include "comm/peer_table.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

using Heard = PeerTable::Heard;

TEST(PeerTable, ReachesAPeerOverItsLatestConnection) {
  PeerTable table;
  EXPECT_EQ(table.connection_of("a"), nullptr);
  EXPECT_EQ(table.heard({"a", 1, "user", "first"}), Heard::kAsBefore);
  EXPECT_EQ(table.heard({"b", 1, "user", "other"}), Heard::kAsBefore);
  EXPECT_EQ(table.heard({"a", 2, "user", "first"}), Heard::kAsBefore);
  EXPECT_EQ(table.heard({"a", 9, "user", "second"}), Heard::kReconnected);
  EXPECT_EQ(*table.connection_of("a"), "second");
  EXPECT_EQ(*table.connection_of("b"), "other");
}

TEST(PeerTable, LateFramesOfAnOlderConnectionChangeNothing) {
  PeerTable table;
  EXPECT_EQ(table.heard({"a", 1, "user", "first"}), Heard::kAsBefore);
  EXPECT_EQ(table.heard({"a", 20, "user", "third"}), Heard::kReconnected);
  EXPECT_EQ(table.heard({"a", 2, "user", "first"}), Heard::kAsBefore);
  EXPECT_EQ(table.heard({"a", 10, "user", "second"}), Heard::kAsBefore) << "it was lost before it was heard";
  EXPECT_EQ(*table.connection_of("a"), "third");
  EXPECT_EQ(table.heard({"a", 21, "user", "third"}), Heard::kAsBefore);
}

TEST(PeerTable, ForgetsTheOneThatWasSilentLongest) {
  PeerTable table;
  const auto name = [](size_t peer) { return std::to_string(peer); };
  for (size_t peer = 0; peer < PeerTable::kPeersMax; ++peer) table.heard({name(peer), 1, "", name(peer)});
  table.heard({name(0), 2, "", name(0)});
  table.heard({"new", 1, "", "new"});
  EXPECT_NE(table.connection_of(name(0)), nullptr);
  EXPECT_EQ(table.connection_of(name(1)), nullptr);
  EXPECT_NE(table.connection_of(name(2)), nullptr);
  EXPECT_NE(table.connection_of("new"), nullptr);
}

TEST(PeerTable, AKeyThatInventsNamesLosesItsOwn) {
  PeerTable table;
  table.heard({"quiet", 1, "user", "first"});
  for (size_t peer = 0; peer < 2 * PeerTable::kPeersMax; ++peer) table.heard({std::to_string(peer), 1, "other", "x"});
  ASSERT_NE(table.connection_of("quiet"), nullptr);
  EXPECT_EQ(*table.connection_of("quiet"), "first");
}

}  // namespace
}  // namespace skein
