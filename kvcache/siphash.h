#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace skein {

using SipKey = std::array<uint8_t, 16>;

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash128&) const = default;
};

// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF"):
// without the key nobody can make two inputs meet.
Hash128 siphash128(const SipKey& key, std::span<const std::byte> bytes);

}  // namespace skein
