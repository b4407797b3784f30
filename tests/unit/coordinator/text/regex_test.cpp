#include "coordinator/text/regex.h"

#include <gtest/gtest.h>

#include <string>

#include "coordinator/text/gguf_pre.h"
#include "coordinator/text/regex_syntax.h"

namespace skein::text {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  auto regex = Regex::compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status().message();
  if (!regex.ok()) return {};
  std::vector<Range> ranges;
  const Status status = Regex::Search(*regex).all(text, &ranges);
  EXPECT_TRUE(status.ok()) << status.message();
  std::vector<std::string> found;
  for (const auto& [begin, end] : ranges) found.emplace_back(text.substr(begin, end - begin));
  return found;
}

using Found = std::vector<std::string>;

TEST(Regex, ReadsClassesAsUnicodeDoes) {
  EXPECT_EQ(matches("\\s", "a\u180E\u0085\u00A0\u200Bb"), (Found{"\u0085", "\u00A0"}));
  EXPECT_EQ(matches("[^\\S\\n]", " \n\t"), (Found{" ", "\t"}));
  EXPECT_EQ(matches("\\w+", "é_9\u0301-⅓\u200D½"), (Found{"é_9\u0301", "½"}));
  EXPECT_EQ(matches("\\d+", "12٣४½"), (Found{"12٣४"}));
  EXPECT_EQ(matches("\\bab\\b", "ab cab ab"), (Found{"ab", "ab"}));
  EXPECT_EQ(matches("\\p{Han}+", "中文。ー々"), (Found{"中文", "々"}));  // not by script extensions
}

TEST(Regex, KnowsCharactersUpToUnicode16) {
  EXPECT_EQ(matches("\\p{S}", "🪿🫩"), (Found{"🪿", "🫩"}));  // 15.0, 16.0
  EXPECT_EQ(matches("[\\p{L}]+", "\U00031350\U0002EBF0"), (Found{"\U00031350\U0002EBF0"}));
  EXPECT_EQ(matches("\\P{L}", "a\U00031350!"), (Found{"!"}));
  EXPECT_EQ(matches("[^\\s\\p{L}]", "a \U00031350!"), (Found{"!"}));
}

TEST(Regex, ReadsOnigurumaSyntax) {
  EXPECT_EQ(matches("(?i:'s|'ll)", "'S'lL'sx'L"), (Found{"'S", "'lL", "'s"}));
  EXPECT_EQ(matches("(?m:a.b)", "a\nb"), (Found{"a\nb"}));
  EXPECT_EQ(matches("a.b", "a\nb a\rb"), (Found{"a\rb"}));
  EXPECT_EQ(matches("^x|y$", "x\nx y\ny"), (Found{"x", "x", "y", "y"}));
  EXPECT_EQ(matches("\\v", "\x0B\n"), (Found{"\x0B"}));
  EXPECT_EQ(matches("\\u2581\\x{2581}\\x41", "▁▁A"), (Found{"▁▁A"}));
  EXPECT_EQ(matches("a{,2}b", "aaab"), (Found{"aab"}));
  EXPECT_EQ(matches("{x}", "{x}"), (Found{"{x}"}));
  EXPECT_EQ(matches("a?+a|b", "aab"), (Found{"aa", "b"}));
}

TEST(Regex, LeavesOutAnEmptyMatchBehindAnother) {
  auto regex = Regex::compile("a*");
  ASSERT_TRUE(regex.ok());
  std::vector<Range> ranges;
  ASSERT_TRUE(Regex::Search(*regex).all("éaab", &ranges).ok());
  EXPECT_EQ(ranges, (std::vector<Range>{{0, 0}, {2, 4}, {5, 5}}));
}

TEST(Regex, RefusesWhatTheTwoEnginesReadDifferently) {
  for (const char* pattern :
       {"(a)\\1",   "\\h",         "\\R",         "\\X",
        "\\Q",      "\\C",         "\\G",         "(?R)",
        "(?1)",     "(?<n>a)",     "(*UTF)",      "a(?i)b|c",
        "(?x:a b)", "[[:alpha:]]", "[a-z&&[^b]]", "[]a]",
        "[a",       "a{2}+",       "a{2}?",       "\\p{Alpha}",
        "\\pL",     "\\xE2",       "\\x{D800}",   "\\",
        "\\K",      "(?#c)",       "[\\W]",       "\\p{Katakana_Or_Hiragana}"}) {
    const auto regex = Regex::compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(regex.status().code(), Code::kUnsupported) << pattern;
    EXPECT_NE(regex.status().message().find("regular expression"), std::string::npos)
        << regex.status().message();
  }
}

TEST(Regex, RefusesPatternsThatDoNotCompileOrAreTooMuch) {
  EXPECT_FALSE(Regex::compile("a)").ok());
  EXPECT_FALSE(Regex::compile("*").ok());
  EXPECT_FALSE(Regex::compile(std::string(20'000, 'a')).ok());
  EXPECT_FALSE(Regex::compile(std::string(100, '(') + std::string(100, ')')).ok());
  EXPECT_FALSE(Regex::compile("(?:(?:a{1000}){1000}){1000}").ok());
  EXPECT_FALSE(Regex::compile("\xFF").ok());
}

TEST(Regex, GivesUpOnAMatchThatTakesTooManySteps) {
  auto regex = Regex::compile("(?:a+)+$");
  ASSERT_TRUE(regex.ok());
  std::vector<Range> ranges;
  const Status status = Regex::Search(*regex).all(std::string(64, 'a') + "!", &ranges);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
}

TEST(Regex, MatchesAMegabyteThatItMustTrackBack) {
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(matches("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", spaces + "x").size(), 2u);
  EXPECT_EQ(matches("(?:a|b)*c", std::string(1 << 20, 'a') + "c").size(), 1u);  // needs a stack
  EXPECT_TRUE(matches("\\s+$", spaces + "x" + spaces) == Found{spaces});
}

TEST(Regex, EscapesATextForUseAsAPattern) {
  const std::string text = "a.b*[c]{1}(?i)\\d^$|▁é#\n";
  EXPECT_EQ(matches(escaped_pattern(text), "x" + text + "y"), Found{text});
}

TEST(GgufPre, CompilesEveryKnownPattern) {
  for (const char* name : {"", "default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35",
                           "deepseek-llm", "deepseek-v3", "tekken"}) {
    const auto pre = gguf_pre(name);
    ASSERT_TRUE(pre.ok()) << name;
    for (const std::string_view pattern : pre->patterns)
      EXPECT_TRUE(Regex::compile(pattern).ok()) << pattern;
  }
}

TEST(GgufPre, ListsTheKnownOnesForAnUnknownName) {
  const auto pre = gguf_pre("no-such");
  ASSERT_FALSE(pre.ok());
  EXPECT_EQ(pre.status().code(), Code::kUnsupported);
  EXPECT_NE(pre.status().message().find("smollm"), std::string::npos);
}

TEST(GgufPre, CutsDeepseekLlmByScriptsWithCapitals) {
  const std::string_view letters = gguf_pre("deepseek-llm")->patterns[1];
  EXPECT_EQ(matches(letters, "don't Ωμέγα жук ძაღლი 12"), (Found{"don", "t", " Ωμέγα", " жук"}));
}

}  // namespace
}  // namespace skein::text
