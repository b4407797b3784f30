#include "base/json.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

TEST(Json, RoundTripsEveryKindOfValue) {
  const std::string text =
      R"({"a":[1,-2,3.5,true,false,null],"b":"q\"\\\n\u0001é","c":{},"d":9223372036854775807})";
  const auto value = parse_json(text);
  ASSERT_TRUE(value.ok()) << value.status().message();
  EXPECT_EQ(value->dump(), text);
  EXPECT_EQ(value->find("d")->as_int(), 9223372036854775807);
}

TEST(Json, SaysWhereTheSyntaxBreaks) {
  const auto value = parse_json("{\"a\": 1,\n \"b\" 2}");
  ASSERT_FALSE(value.ok());
  EXPECT_NE(value.status().message().find("line 2"), std::string::npos) << value.status().message();
}

TEST(Json, RefusesWhatRfc8259Refuses) {
  for (const char* text : {"", "[1,]", "{\"a\":1,}", "01", "NaN", "1e999", "\"\xff\"", "[1] x", "'a'",
                           "{\"a\":1,\"a\":2}", "\"\\ud800\"", "// c\n1"}) {
    EXPECT_FALSE(parse_json(text).ok()) << text;
  }
}

TEST(Json, HoldsItsLimits) {
  EXPECT_TRUE(parse_json("[[[1]]]", {.depth_max = 3}).ok());
  EXPECT_FALSE(parse_json("[[[[1]]]]", {.depth_max = 3}).ok());
  EXPECT_FALSE(parse_json("[1,2,3]", {.values_max = 3}).ok());
  EXPECT_FALSE(parse_json("[1,2,3]", {.bytes_max = 6}).ok());
  EXPECT_FALSE(parse_json(std::string(1 << 20, '[')).ok());
}

TEST(Json, WritesInvalidUtf8AsReplacementCharacters) {
  EXPECT_EQ(Json(std::string("a\xffz")).dump(), "\"a\xEF\xBF\xBDz\"");
}

}  // namespace
}  // namespace skein
