#include "coordinator/text/added_tokens.h"

#include <algorithm>

#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

size_t previous_character(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool word_before(std::string_view text, size_t at) {
  if (at == 0) return false;
  size_t begin = previous_character(text, at);
  return is_word_character(next_code_point(text, &begin));
}

bool word_behind(std::string_view text, size_t at) {
  return at < text.size() && is_word_character(next_code_point(text, &at));
}

size_t without_space_before(std::string_view text, size_t at) {
  while (at > 0) {
    const size_t begin = previous_character(text, at);
    size_t next = begin;
    if (!is_white_space(next_code_point(text, &next))) break;
    at = begin;
  }
  return at;
}

size_t without_space_behind(std::string_view text, size_t at) {
  while (at < text.size()) {
    size_t next = at;
    if (!is_white_space(next_code_point(text, &next))) break;
    at = next;
  }
  return at;
}

Range range(size_t begin, size_t end) {
  return {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)};
}

}  // namespace

Result<TokenFinder> TokenFinder::build(std::vector<Pattern> patterns) {
  for (const Pattern& pattern : patterns) {
    if (pattern.text.empty()) {
      return unsupported("the added token " + quoted(pattern.token.content) +
                         " is nothing once it is normalised, which is not supported");
    }
  }
  TokenFinder finder;
  std::ranges::stable_sort(patterns, {}, &Pattern::text);
  const auto same_text = [](const Pattern& a, const Pattern& b) { return a.text == b.text; };
  patterns.erase(std::unique(patterns.begin(), patterns.end(), same_text), patterns.end());
  for (const Pattern& pattern : patterns) {
    finder.starts_[static_cast<unsigned char>(pattern.text[0])] = true;
  }
  finder.patterns_ = std::move(patterns);
  return finder;
}

// Narrows the sorted patterns byte by byte to those that agree with the text so far.
const TokenFinder::Pattern* TokenFinder::longest_at(std::string_view text, size_t at) const {
  const Pattern* longest = nullptr;
  auto first = patterns_.begin();
  auto last = patterns_.end();
  for (size_t depth = 0; at + depth < text.size(); ++depth) {
    const int wanted = static_cast<unsigned char>(text[at + depth]);
    const auto byte = [depth](const Pattern& pattern) {
      return depth < pattern.text.size() ? static_cast<unsigned char>(pattern.text[depth]) : -1;
    };
    first = std::partition_point(first, last, [&](const Pattern& p) { return byte(p) < wanted; });
    last = std::partition_point(first, last, [&](const Pattern& p) { return byte(p) == wanted; });
    if (first == last) break;
    if (first->text.size() == depth + 1) longest = &*first;
  }
  return longest;
}

std::vector<Fragment> TokenFinder::split(std::string_view text) const {
  std::vector<Fragment> fragments;
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    const bool possible = starts_[static_cast<unsigned char>(text[at])];
    const Pattern* match = possible ? longest_at(text, at) : nullptr;
    if (match == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + match->text.size();
    at = end;
    const AddedToken& token = match->token;
    if (token.single_word && (word_before(text, begin) || word_behind(text, end))) continue;
    if (token.lstrip) begin = std::max(without_space_before(text, begin), covered);
    if (token.rstrip) end = without_space_behind(text, end);
    if (covered < begin) fragments.push_back({range(covered, begin)});
    fragments.push_back({range(begin, end), token.id});
    covered = end;
  }
  if (covered < text.size()) fragments.push_back({range(covered, text.size())});
  return fragments;
}

}  // namespace skein::text
