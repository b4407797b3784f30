#include "base/bytes.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

TEST(Bytes, RoundTrip) {
  std::string bytes;
  ByteWriter writer(&bytes);
  writer.put<uint8_t>(7);
  writer.put<int32_t>(-5);
  writer.put(1.5f);
  writer.put_array(std::span<const int32_t>(std::vector<int32_t>{1, 2, 3}));
  writer.put_text("text");
  ByteReader reader(bytes);
  EXPECT_EQ(reader.get<uint8_t>(), 7);
  EXPECT_EQ(reader.get<int32_t>(), -5);
  EXPECT_EQ(reader.get<float>(), 1.5f);
  EXPECT_EQ(reader.get_array<int32_t>(), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(reader.get_text(), "text");
  EXPECT_TRUE(reader.ok());
  EXPECT_TRUE(reader.at_end());
}

TEST(Bytes, ReadingPastTheEndFailsForGood) {
  ByteReader reader(std::string_view("\1\2\3", 3));
  EXPECT_EQ(reader.get<uint32_t>(), 0u);
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.get<uint8_t>(), 0) << "nothing is read after a failure";
  EXPECT_FALSE(reader.ok());
}

TEST(Bytes, CountsThatCannotBeTrueAllocateNothing) {
  std::string bytes;
  ByteWriter writer(&bytes);
  writer.put<uint32_t>(0xffffffff);
  writer.put<uint32_t>(1);
  EXPECT_EQ(ByteReader(bytes).get_count(size_t{1} << 62), 0u) << "overflow";
  ByteReader array(bytes);
  EXPECT_TRUE(array.get_array<uint64_t>().empty());
  EXPECT_FALSE(array.ok());
  ByteReader text(bytes);
  EXPECT_EQ(text.get_text(), "");
  EXPECT_FALSE(text.ok());
}

}  // namespace
}  // namespace skein
