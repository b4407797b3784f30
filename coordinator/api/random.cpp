#include "coordinator/api/random.h"

#include <sys/random.h>

#include "base/check.h"

namespace skein {

uint64_t random_u64() {
  uint64_t value = 0;
  CHECK_EQ(getrandom(&value, sizeof value, 0), static_cast<ssize_t>(sizeof value));
  return value;
}

std::string random_hex32() {
  constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (int word = 0; word < 2; ++word) {
    uint64_t value = random_u64();
    for (int digit = 0; digit < 16; ++digit, value >>= 4) text += kHex[value & 15];
  }
  return text;
}

}  // namespace skein
