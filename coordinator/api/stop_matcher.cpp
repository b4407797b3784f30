#include "coordinator/api/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace skein {

StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include) : include_(include) {
  for (const std::string& stop : stops) {
    CHECK(!stop.empty());
    Pattern pattern{.text = stop, .failure = std::vector<uint32_t>(stop.size() + 1, 0)};
    for (size_t i = 1; i < stop.size(); ++i) {
      uint32_t length = pattern.failure[i];
      while (length > 0 && stop[length] != stop[i]) length = pattern.failure[length];
      pattern.failure[i + 1] = stop[length] == stop[i] ? length + 1 : 0;
    }
    patterns_.push_back(std::move(pattern));
  }
}

void StopMatcher::Pattern::advance(char byte) {
  if (complete()) state = failure[state];
  while (state > 0 && text[state] != byte) state = failure[state];
  if (text[state] == byte) ++state;
}

std::string StopMatcher::push(std::string_view text, bool may_stop) {
  if (matched_ >= 0) return {};
  if (patterns_.empty()) return std::string(text);
  const size_t before = held_.size();
  held_ += text;
  for (size_t i = before; i < held_.size(); ++i) {
    for (Pattern& pattern : patterns_) pattern.advance(held_[i]);
    if (!may_stop) continue;
    size_t longest = 0;
    for (size_t p = 0; p < patterns_.size(); ++p) {
      if (!patterns_[p].complete() || patterns_[p].text.size() <= longest) continue;
      longest = patterns_[p].text.size();
      matched_ = static_cast<int>(p);
    }
    if (matched_ < 0) continue;
    held_.resize(include_ ? i + 1 : i + 1 - longest);
    return std::exchange(held_, {});
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) {
    const uint32_t open = pattern.complete() ? pattern.failure[pattern.state] : pattern.state;
    keep = std::max<size_t>(keep, open);
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace skein
