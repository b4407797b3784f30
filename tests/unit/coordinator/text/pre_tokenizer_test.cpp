#include "coordinator/text/pre_tokenizer.h"

#include "tests/unit/coordinator/text/tiny_tokenizer.h"

namespace skein::text {
namespace {

using Parts = std::vector<std::string>;

Parts cut(std::string_view json, std::string_view text, bool at_start = true) {
  const Json parsed = must_parse(json);
  const auto pre_tokenizer = PreTokenizer::parse(&parsed);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status().message();
  if (!pre_tokenizer.ok()) return {};
  const auto pieces = pre_tokenizer->apply(std::string(text), at_start);
  EXPECT_TRUE(pieces.ok());
  Parts parts;
  for (const auto& [begin, end] : pieces->ranges) {
    parts.push_back(pieces->text.substr(begin, end - begin));
  }
  return parts;
}

Parts split(std::string_view behavior, bool invert, std::string_view text) {
  const std::string pattern = R"("pattern": {"String": "-"}, "behavior": ")";
  return cut(R"({"type": "Split", )" + pattern + std::string(behavior) + R"(", "invert": )" +
                 (invert ? "true}" : "false}"),
             text);
}

TEST(PreTokenizer, SplitsByEachBehavior) {
  EXPECT_EQ(split("Isolated", false, "-a--b-"), (Parts{"-", "a", "-", "-", "b", "-"}));
  EXPECT_EQ(split("Removed", false, "-a--b-"), (Parts{"a", "b"}));
  EXPECT_EQ(split("MergedWithPrevious", false, "a--b-"), (Parts{"a-", "-", "b-"}));
  EXPECT_EQ(split("MergedWithNext", false, "a--b-"), (Parts{"a", "-", "-b", "-"}));
  EXPECT_EQ(split("Contiguous", false, "a--b-"), (Parts{"a", "--", "b", "-"}));
  EXPECT_EQ(split("Removed", true, "-a--b-"), (Parts{"-", "-", "-", "-"}));
  EXPECT_EQ(split("MergedWithPrevious", true, "a--b-"), (Parts{"a", "-", "-b", "-"}));
  EXPECT_EQ(split("Contiguous", true, "a--b-"), (Parts{"a", "--", "b", "-"}));
  EXPECT_EQ(split("Isolated", false, ""), Parts{});
}

TEST(PreTokenizer, CutsNumbersPunctuationAndSpace) {
  EXPECT_EQ(cut(R"({"type": "Digits", "individual_digits": true})", "a12½"), (Parts{"a", "1", "2", "½"}));
  EXPECT_EQ(cut(R"({"type": "Digits"})", "a12½b"), (Parts{"a", "12½", "b"}));
  EXPECT_EQ(cut(R"({"type": "Punctuation", "behavior": "Contiguous"})", "a,$。b"), (Parts{"a", ",$。", "b"}));
  EXPECT_EQ(cut(R"({"type": "WhitespaceSplit"})", " a,b \u3000c"), (Parts{"a,b", "c"}));
  EXPECT_EQ(cut(R"({"type": "Whitespace"})", "a_1, b½\u200Dc"), (Parts{"a_1", ",", "b", "½", "\u200Dc"}));
}

TEST(PreTokenizer, MarksSpaces) {
  constexpr std::string_view kAlways = R"({"type": "Metaspace", "replacement": "▁"})";
  EXPECT_EQ(cut(kAlways, "a  b"), (Parts{"▁a", "▁", "▁b"}));
  EXPECT_EQ(cut(kAlways, "▁a"), (Parts{"▁a"}));
  constexpr std::string_view kWhole =
      R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false})";
  EXPECT_EQ(cut(kWhole, "a b"), (Parts{"▁a▁b"}));
  EXPECT_EQ(cut(kWhole, "a b", false), (Parts{"a▁b"}));
  EXPECT_EQ(cut(R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})", "a b"),
            (Parts{"a", "_b"}));
}

TEST(PreTokenizer, PutsAMarkOnlyBeforeAPieceThatBeginsTheInput) {
  const auto after = [](std::string_view first) {
    return R"({"type": "Sequence", "pretokenizers": [)" + std::string(first) +
           R"(, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}]})";
  };
  constexpr std::string_view kDropA =
      R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed"})";
  EXPECT_EQ(cut(after(kDropA), "abab"), (Parts{"b", "b"}));
  EXPECT_EQ(cut(after(kDropA), "bab"), (Parts{"▁b", "b"}));
}

TEST(PreTokenizer, SpellsBytes) {
  EXPECT_EQ(cut(R"({"type": "ByteLevel"})", "a é's"), (Parts{"Ġa", "ĠÃ©", "'s"}));
  EXPECT_EQ(cut(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})", "a é"),
            (Parts{"aĠÃ©"}));
}

}  // namespace
}  // namespace skein::text
