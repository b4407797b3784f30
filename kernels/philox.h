#pragma once

#include <cstdint>

namespace skein {

// Philox4x32-10 (Salmon et al., SC 2011).
inline constexpr int kPhiloxRounds = 10;
inline constexpr uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;

}  // namespace skein
