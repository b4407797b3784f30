#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace skein::text {

struct Range {
  uint32_t begin = 0;
  uint32_t end = 0;
  bool operator==(const Range&) const = default;
};

// A compiled pattern. Immutable, thread-safe. Only regex.cpp knows the library behind it.
class Regex {
 public:
  // Oniguruma syntax (see regex_syntax.h). Patterns come from files: their length, nesting and
  // (see Search) the work of a match are bounded.
  static Result<Regex> compile(std::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // The working memory of searches with one Regex. Single-owner; the Regex must outlive it.
  class Search {
   public:
    explicit Search(const Regex& regex);
    Search(Search&&) noexcept;
    ~Search();
    // The matches in `text`, left to right, none overlapping; an empty one directly behind another
    // match is left out. kResourceExhausted where the pattern needs more steps than the limit.
    // Requires: `text` is valid UTF-8 of less than 4 GiB.
    Status all(std::string_view text, std::vector<Range>* matches);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace skein::text
