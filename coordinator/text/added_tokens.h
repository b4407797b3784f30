#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "coordinator/text/regex.h"

namespace skein::text {

// A token that is found in a text as it stands, before anything else is done to the text.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // left out by decode(skip_special_tokens)
  bool normalized = false;   // its normalised content is searched in the normalised text
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
};

// A part of a text: an added token, or text between two.
struct Fragment {
  static constexpr int32_t kText = -1;
  Range range;
  int32_t id = kText;
};

// Finds added tokens: from left to right the longest that starts first. Immutable, thread-safe.
class TokenFinder {
 public:
  // A token and the text to look for. Of equal texts the first counts.
  struct Pattern {
    std::string text;
    AddedToken token;
  };

  // kUnsupported for an empty text.
  static Result<TokenFinder> build(std::vector<Pattern> patterns);

  // The fragments that cover `text`, in order, none empty. Requires: valid UTF-8 below 4 GiB.
  std::vector<Fragment> split(std::string_view text) const;

 private:
  const Pattern* longest_at(std::string_view text, size_t at) const;

  std::vector<Pattern> patterns_;  // sorted by text
  std::vector<bool> starts_ = std::vector<bool>(256);
};

}  // namespace skein::text
