#include "kvcache/siphash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace skein {
namespace {

// The key 00 01 ... 0f over the message 00 01 ... of each length, as the reference implementation
// and OpenSSL compute it.
TEST(SipHash, EqualsTheReference) {
  SipKey key;
  std::iota(key.begin(), key.end(), uint8_t{0});
  const struct {
    size_t length;
    Hash128 hash;
  } vectors[] = {
      {0, {0xe6a825ba047f81a3, 0x930255c71472f66d}},
      {1, {0x44af996bd8c187da, 0x45fc229b11597634}},
      {7, {0x53c1dbd8beebf1a1, 0x3982f01fa64ab8c0}},
      {8, {0x61f55862baa9623b, 0xb49714f364e2830f}},
      {15, {0x11a8b03399e99354, 0xd9c3cf970fec087e}},
      {16, {0xbb54b067caa4e26e, 0x77052385bf1533fd}},
      {63, {0x4a83502f77d15051, 0x7cbd3f979a063e50}},
  };
  for (const auto& [length, hash] : vectors) {
    std::vector<uint8_t> message(length);
    std::iota(message.begin(), message.end(), uint8_t{0});
    const Hash128 made = siphash128(key, std::as_bytes(std::span(message)));
    EXPECT_EQ(made.low, hash.low) << length;
    EXPECT_EQ(made.high, hash.high) << length;
  }
}

}  // namespace
}  // namespace skein
