#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "base/request.h"

namespace skein {

// Frames that wait for the coordinator. A choice's tokens are joined to the frame of it that waits already, so that
// frames grow in number with the choices that run, not with how long the coordinator takes. Thread-safe.
class Outbox {
 public:
  void push(TokenFrame frame);
  // The oldest frame, if any. Frames of one choice keep their order.
  std::optional<TokenFrame> pop();

 private:
  using Key = std::pair<uint64_t, int32_t>;  // request, choice

  std::mutex mutex_;
  std::deque<TokenFrame> frames_;
  uint64_t popped_ = 0;
  std::map<Key, uint64_t> newest_;  // of each choice's frames here: its place, popped ones counted
};

}  // namespace skein
