#include "coordinator/text/pre_tokenizer.h"

#include <algorithm>

#include "coordinator/text/byte_symbols.h"

namespace skein::text {

namespace {

using Behavior = PreTokenizer::Behavior;

struct Part {
  Range range;
  bool is_match = false;
};

// Matches and what lies between them, covering the piece.
void cover(size_t length, const std::vector<Range>& matches, bool invert,
           std::vector<Part>* parts) {
  parts->clear();
  uint32_t end = 0;
  for (const Range& match : matches) {
    if (end != match.begin) parts->push_back({{end, match.begin}, invert});
    parts->push_back({match, !invert});
    end = match.end;
  }
  if (end != length) parts->push_back({{end, static_cast<uint32_t>(length)}, invert});
}

// Joins neighbours as the behaviour says; what comes of it is in order.
void join(Behavior behavior, std::vector<Part>* parts) {
  const auto fold = [&](auto first, auto last, auto joins, auto extend) {
    std::vector<Part> joined;
    bool previous = false;
    for (; first != last; ++first) {
      if (joins(first->is_match, previous) && !joined.empty()) {
        extend(&joined.back().range, first->range);
      } else {
        joined.push_back(*first);
      }
      previous = first->is_match;
    }
    *parts = std::move(joined);
  };
  const auto to_right = [](Range* range, const Range& next) { range->end = next.end; };
  const auto to_left = [](Range* range, const Range& next) { range->begin = next.begin; };
  const auto match_after_text = [](bool now, bool previous) { return now && !previous; };
  switch (behavior) {
    case Behavior::kIsolated: return;
    case Behavior::kRemoved:
      std::erase_if(*parts, [](const Part& p) { return p.is_match; });
      return;
    case Behavior::kContiguous:
      return fold(parts->begin(), parts->end(), std::equal_to<>(), to_right);
    case Behavior::kMergedWithPrevious:
      return fold(parts->begin(), parts->end(), match_after_text, to_right);
    case Behavior::kMergedWithNext: {
      std::vector<Part> reversed(parts->rbegin(), parts->rend());
      fold(reversed.begin(), reversed.end(), match_after_text, to_left);
      std::ranges::reverse(*parts);
      return;
    }
  }
}

struct Apply {
  Pieces* pieces;

  Status operator()(const PreTokenizer::Split& step) const {
    std::vector<Range> ranges;
    std::vector<Range> matches;
    std::vector<Part> parts;
    ranges.reserve(pieces->ranges.size());
    Regex::Search search(step.pattern);
    bool first = true;
    for (const Range& piece : pieces->ranges) {
      const size_t length = piece.end - piece.begin;
      RETURN_IF_ERROR(
          search.all(std::string_view(pieces->text).substr(piece.begin, length), &matches));
      cover(length, matches, step.invert, &parts);
      join(step.behavior, &parts);
      if (first) pieces->at_start = pieces->at_start && !parts.empty() && parts[0].range.begin == 0;
      first = false;
      for (const auto& [range, is_match] : parts) {
        if (range.begin == range.end) continue;
        ranges.push_back({piece.begin + range.begin, piece.begin + range.end});
      }
    }
    pieces->ranges = std::move(ranges);
    return {};
  }

  Status operator()(const PreTokenizer::Prefix& step) const {
    bool first = pieces->at_start;
    return rewrite([&](std::string_view piece, std::string* out) {
      const bool here = first || !step.first_only;
      first = false;
      if (here && !piece.starts_with(step.text)) *out += step.text;
      *out += piece;
    });
  }

  Status operator()(const PreTokenizer::ReplaceSpaces& step) const {
    return rewrite([&](std::string_view piece, std::string* out) {
      for (const char c : piece) {
        if (c == ' ') {
          *out += step.with;
        } else {
          out->push_back(c);
        }
      }
    });
  }

  Status operator()(const PreTokenizer::SpellBytes&) const {
    return rewrite(
        [](std::string_view piece, std::string* out) { append_byte_symbols(piece, out); });
  }

  template <typename Function>
  Status rewrite(Function&& function) const {
    std::string text;
    text.reserve(pieces->text.size() * 3 / 2);
    for (Range& range : pieces->ranges) {
      const auto begin = static_cast<uint32_t>(text.size());
      function(std::string_view(pieces->text).substr(range.begin, range.end - range.begin), &text);
      range = {begin, static_cast<uint32_t>(text.size())};
    }
    pieces->text = std::move(text);
    return {};
  }
};

}  // namespace

Result<Pieces> PreTokenizer::apply(std::string text, bool at_start) const {
  Pieces pieces{std::move(text), {}, at_start};
  if (!pieces.text.empty()) pieces.ranges.push_back({0, static_cast<uint32_t>(pieces.text.size())});
  for (const Step& step : steps_) RETURN_IF_ERROR(std::visit(Apply{&pieces}, step));
  return pieces;
}

}  // namespace skein::text
