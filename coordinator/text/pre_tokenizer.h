#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "coordinator/text/regex.h"

namespace skein::text {

// A text cut into pieces, each a range of it.
struct Pieces {
  std::string text;
  std::vector<Range> ranges;
  bool at_start = false;  // the first piece begins where the whole input begins
};

// Cuts text into the words that BPE then encodes, step by step. Immutable, thread-safe.
class PreTokenizer {
 public:
  enum class Behavior : uint8_t {
    kIsolated,            // a match is a piece of its own
    kRemoved,             // a match is dropped
    kMergedWithPrevious,  // a match ends a piece
    kMergedWithNext,      // a match begins a piece
    kContiguous,          // neighbouring matches are one piece
  };

  struct Split {
    Regex pattern;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;  // what lies between matches counts as the matches
  };
  // Puts `text` before pieces that do not start with it: before all, or before the first one only
  // and only where the input begins.
  struct Prefix {
    std::string text;
    bool first_only = false;
  };
  struct ReplaceSpaces {
    std::string with;
  };
  struct SpellBytes {};  // each byte becomes its symbol (byte_symbols.h)
  using Step = std::variant<Split, Prefix, ReplaceSpaces, SpellBytes>;

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  // `json` is tokenizer.json's "pre_tokenizer", or null.
  static Result<PreTokenizer> parse(const Json* json);

  // `text` becomes one piece and then more. Requires: valid UTF-8 below 1 GiB.
  Result<Pieces> apply(std::string text, bool at_start) const;

 private:
  std::vector<Step> steps_;
};

// The pattern that GPT-2 cuts words with.
inline constexpr std::string_view kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

}  // namespace skein::text
