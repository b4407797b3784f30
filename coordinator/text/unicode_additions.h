#pragma once

#include <span>
#include <string_view>

namespace skein::text {

// A run of characters that Unicode 15.0 to 16.0 added, all of one general category. Tokenizers cut
// words by the tables of Unicode 16, PCRE2 before 10.45 by older ones: patterns name these besides.
struct UnicodeAddition {
  std::string_view category;  // two letters
  char32_t first;
  char32_t last;
};

// Sorted by category.
std::span<const UnicodeAddition> unicode_additions();

}  // namespace skein::text
