#include "coordinator/api/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace skein {
namespace {

struct Outcome {
  std::string text;
  int matched = -1;

  bool operator==(const Outcome&) const = default;
};

// What the matcher is to find, from its definition: the first end of a stop, of these the longest.
Outcome by_definition(const std::vector<std::string>& stops, bool include, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t s = 0; s < stops.size(); ++s) {
      if (!std::string_view(text).substr(0, end).ends_with(stops[s])) continue;
      if (best < 0 || stops[s].size() > stops[static_cast<size_t>(best)].size()) best = static_cast<int>(s);
    }
    if (best < 0) continue;
    return {text.substr(0, include ? end : end - stops[static_cast<size_t>(best)].size()), best};
  }
  return {text, -1};
}

TEST(StopMatcher, FindsTheSameHoweverTheTextArrives) {
  std::mt19937 random(7);
  const auto word = [&](size_t length) {
    std::string out;
    for (size_t i = 0; i < length; ++i) out += static_cast<char>('a' + random() % 2);
    return out;
  };
  int found = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> stops(1 + random() % 4);
    for (std::string& stop : stops) stop = word(1 + random() % 7);
    const bool include = random() % 2 == 0;
    const std::string text = word(random() % 40);
    StopMatcher matcher(stops, include);
    Outcome outcome;
    for (size_t at = 0; at < text.size() && matcher.matched() < 0;) {
      const size_t length = 1 + random() % 5;
      outcome.text += matcher.push(std::string_view(text).substr(at, length));
      at += length;
    }
    if (matcher.matched() < 0) outcome.text += matcher.finish();
    outcome.matched = matcher.matched();
    const Outcome expected = by_definition(stops, include, text);
    ASSERT_EQ(outcome.text, expected.text) << text;
    // Of equal stops the first is named.
    ASSERT_EQ(outcome.matched < 0, expected.matched < 0);
    if (outcome.matched >= 0) {
      ++found;
      ASSERT_EQ(stops[static_cast<size_t>(outcome.matched)], stops[static_cast<size_t>(expected.matched)]);
    }
  }
  EXPECT_GT(found, 5'000);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"abcd", "bcx"}, false);
  EXPECT_EQ(matcher.push("zab"), "z");
  EXPECT_EQ(matcher.push("c"), "");
  EXPECT_EQ(matcher.push("y"), "abcy");
  EXPECT_EQ(matcher.push("abc"), "");
  EXPECT_EQ(matcher.push("x"), "a");
  EXPECT_EQ(matcher.matched(), 1);
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, GivesHeldTextAtTheEnd) {
  StopMatcher matcher({"</end>"}, false);
  EXPECT_EQ(matcher.push("ok </en"), "ok ");
  EXPECT_EQ(matcher.finish(), "</en");
}

TEST(StopMatcher, IgnoresStopsWhileNoneMayCount) {
  StopMatcher matcher({"ab"}, false);
  EXPECT_EQ(matcher.push("xab", false), "xab");
  EXPECT_EQ(matcher.push("ya", false), "y");
  EXPECT_EQ(matcher.push("bz", true), "");  // completed by a push that counts
  EXPECT_EQ(matcher.matched(), 0);
}

TEST(StopMatcher, PassesEverythingWithoutStops) {
  StopMatcher matcher({}, false);
  EXPECT_EQ(matcher.push("anything"), "anything");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, NeverEndsWithinACharacter) {
  // The stop begins with the same two bytes as the text's character.
  StopMatcher matcher({"\xE2\x82\xAC!"}, false);
  EXPECT_EQ(matcher.push("1\xE2\x82\xAC"), "1");
  EXPECT_EQ(matcher.push("\xE2\x82\xAD"), "\xE2\x82\xAC\xE2\x82\xAD");
}

}  // namespace
}  // namespace skein
