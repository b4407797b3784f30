#include "coordinator/text/added_tokens.h"

#include <gtest/gtest.h>

namespace skein::text {
namespace {

// Fragments as text: added tokens as "#id".
std::vector<std::string> split(std::vector<AddedToken> tokens, std::string_view text) {
  std::vector<TokenFinder::Pattern> patterns;
  for (const AddedToken& token : tokens) patterns.push_back({token.content, token});
  auto finder = TokenFinder::build(patterns);
  EXPECT_TRUE(finder.ok());
  std::vector<std::string> parts;
  for (const Fragment& fragment : finder->split(text)) {
    const auto [begin, end] = fragment.range;
    parts.push_back(fragment.id == Fragment::kText ? std::string(text.substr(begin, end - begin))
                                                   : "#" + std::to_string(fragment.id));
  }
  return parts;
}

using Parts = std::vector<std::string>;

TEST(TokenFinder, TakesTheLongestThatStartsFirst) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "ab"},
                                          {.id = 2, .content = "abcd"},
                                          {.id = 3, .content = "bcde"},
                                          {.id = 4, .content = "c"}};
  EXPECT_EQ(split(tokens, "xabcdex"), (Parts{"x", "#2", "ex"}));
  EXPECT_EQ(split(tokens, "abcx"), (Parts{"#1", "#4", "x"}));
  EXPECT_EQ(split(tokens, "xx"), (Parts{"xx"}));
  EXPECT_EQ(split(tokens, ""), Parts{});
  EXPECT_EQ(split(tokens, "abab"), (Parts{"#1", "#1"}));
  EXPECT_EQ(split({}, "ab"), (Parts{"ab"}));
}

TEST(TokenFinder, LetsTheFirstOfEqualTextsCount) {
  EXPECT_EQ(split({{.id = 7, .content = "a"}, {.id = 3, .content = "a"}}, "a"), (Parts{"#7"}));
}

TEST(TokenFinder, StripsSpaceBeside) {
  const AddedToken left{.id = 1, .content = "<m>", .lstrip = true};
  const AddedToken right{.id = 2, .content = "<n>", .rstrip = true};
  EXPECT_EQ(split({left}, "a \u00A0\t<m> b"), (Parts{"a", "#1", " b"}));
  EXPECT_EQ(split({right}, "a <n> \n\u3000b"), (Parts{"a ", "#2", "b"}));
  EXPECT_EQ(split({left, right}, "<n>  <m>"), (Parts{"#2", "#1"}));
}

TEST(TokenFinder, LeavesPartsOfWordsAlone) {
  const AddedToken word{.id = 1, .content = "hi", .single_word = true};
  EXPECT_EQ(split({word}, "hi ahi hié hi-hi"), (Parts{"#1", " ahi hié ", "#1", "-", "#1"}));
}

TEST(TokenFinder, RefusesAnEmptyText) {
  const auto finder = TokenFinder::build({{"", {.id = 1, .content = " "}}});
  ASSERT_FALSE(finder.ok());
  EXPECT_EQ(finder.status().code(), Code::kUnsupported);
}

}  // namespace
}  // namespace skein::text
