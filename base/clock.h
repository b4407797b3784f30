#pragma once

#include <chrono>
#include <cstdint>

namespace skein {

// Of the clock that no one sets, as the control core and LeaseWatch count time.
inline int64_t milliseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}
inline int64_t now_ms() { return milliseconds(std::chrono::steady_clock::now()); }

// Since 1970, as this machine believes.
inline int64_t unix_ms() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

}  // namespace skein
