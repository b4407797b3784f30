#pragma once

#include <algorithm>
#include <cstdint>

namespace skein {

// How long another process has been silent, as far as this one was there to hear it: time in which this one did not run
// (a busy or paused machine) does not count, for what arrived meanwhile is still unread. Single-owner.
class LeaseWatch {
 public:
  static constexpr int64_t kLookMsMax = 500;  // between two looks; more was a pause

  void heard(int64_t now_ms) {
    silent_ms_ = 0;
    looked_ms_ = now_ms;
  }
  // Call at least each kLookMsMax, after reading what there is.
  int64_t silent_ms(int64_t now_ms) {
    silent_ms_ += std::min(now_ms - looked_ms_, kLookMsMax);
    looked_ms_ = now_ms;
    return silent_ms_;
  }

 private:
  int64_t silent_ms_ = 0;
  int64_t looked_ms_ = 0;
};

}  // namespace skein
