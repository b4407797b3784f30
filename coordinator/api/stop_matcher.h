#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace skein {

// Finds the stop string that is completed first in a text that arrives in pieces, and holds back whatever may still
// become one. What it finds does not depend on the pieces. Single-owner.
class StopMatcher {
 public:
  // Requires: no stop is empty. With `include` the stop string stays in the text.
  StopMatcher(const std::vector<std::string>& stops, bool include);

  // Returns the text that is now certain. Stops completed by a push with `may_stop` false do not count. After a
  // match nothing more is returned.
  std::string push(std::string_view text, bool may_stop = true);
  // What was held back, the text being over.
  std::string finish();

  // The index of the stop that matched, or -1.
  int matched() const { return matched_; }

 private:
  // Knuth, Morris and Pratt's automaton: failure[i] is the length of the longest proper prefix of the
  // stop that ends its first i bytes.
  struct Pattern {
    std::string text;
    std::vector<uint32_t> failure;
    uint32_t state = 0;  // bytes matched so far

    void advance(char byte);
    bool complete() const { return state == text.size(); }
  };

  std::vector<Pattern> patterns_;
  const bool include_;
  std::string held_;
  int matched_ = -1;
};

}  // namespace skein
