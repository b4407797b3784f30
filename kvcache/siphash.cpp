#include "kvcache/siphash.h"

#include <bit>
#include <cstring>

namespace skein {
namespace {

struct SipState {
  uint64_t a, b, c, d;

  void rounds(int count) {
    for (int i = 0; i < count; ++i) {
      a += b;
      b = std::rotl(b, 13) ^ a;
      a = std::rotl(a, 32);
      c += d;
      d = std::rotl(d, 16) ^ c;
      a += d;
      d = std::rotl(d, 21) ^ a;
      c += b;
      b = std::rotl(b, 17) ^ c;
      c = std::rotl(c, 32);
    }
  }
  void absorb(uint64_t word) {
    d ^= word;
    rounds(2);
    a ^= word;
  }
  uint64_t fold() const { return a ^ b ^ c ^ d; }
};

uint64_t load_word(const void* from, size_t bytes) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t word = 0;
  std::memcpy(&word, from, bytes);
  return word;
}

}  // namespace

Hash128 siphash128(const SipKey& key, std::span<const std::byte> bytes) {
  const uint64_t k0 = load_word(key.data(), 8);
  const uint64_t k1 = load_word(key.data() + 8, 8);
  SipState state{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261,
                 k1 ^ 0x7465646279746573};
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) state.absorb(load_word(bytes.data() + at, 8));
  const size_t tail = bytes.size() - at;
  const uint64_t last = tail > 0 ? load_word(bytes.data() + at, tail) : 0;
  state.absorb(last | static_cast<uint64_t>(bytes.size()) << 56);

  Hash128 hash;
  state.c ^= 0xee;
  state.rounds(4);
  hash.low = state.fold();
  state.b ^= 0xdd;
  state.rounds(4);
  hash.high = state.fold();
  return hash;
}

}  // namespace skein
