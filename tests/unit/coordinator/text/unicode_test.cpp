#include "coordinator/text/unicode.h"

#include <gtest/gtest.h>

#include "coordinator/text/byte_symbols.h"
#include "coordinator/text/utf8.h"

namespace skein::text {
namespace {

std::string repaired(std::string bytes) {
  std::string out;
  repair_utf8(&bytes, true, &out);
  EXPECT_TRUE(bytes.empty());
  return out;
}

TEST(Utf8, KnowsWhatIsValid) {
  for (const char* text :
       {"", "a", "é", "中", "😀", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF", "abcdefghijklmnopé"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
  }
  for (const char* text : {"\x80", "\xC0\x80", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80",
                           "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "abcdefghijklmnop\xFF",
                           "\xE4\xB8"
                           "a"}) {
    EXPECT_FALSE(is_utf8(text)) << text;
  }
}

TEST(Utf8, RoundTripsEveryCharacter) {
  for (char32_t c = 0; c < 0x110000; c += c < 0x900 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_code_point(c, &text);
    ASSERT_TRUE(is_utf8(text)) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(character_length(text[0]), text.size());
    size_t at = 0;
    ASSERT_EQ(next_code_point(text, &at), c);
    ASSERT_EQ(at, text.size());
  }
}

TEST(Utf8, ReplacesMaximalParts) {
  EXPECT_EQ(repaired("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(repaired("\xE4\xB8z"), "\uFFFDz");                // two bytes that began one character
  EXPECT_EQ(repaired("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate begins none
  EXPECT_EQ(repaired("\xF0\x9F\x98"), "\uFFFD");
}

TEST(Utf8, KeepsAnIncompleteCharacterForLater) {
  std::string held = "ab\xF0\x9F";
  std::string out;
  repair_utf8(&held, false, &out);
  EXPECT_EQ(out, "ab");
  EXPECT_EQ(held, "\xF0\x9F");
  held +=
      "\x98\x80"
      "c";
  repair_utf8(&held, false, &out);
  EXPECT_EQ(out, "ab😀c");
  EXPECT_TRUE(held.empty());
}

TEST(Unicode, NormalisesByTheTablesOfUnicode9) {
  EXPECT_EQ(*normalize("e\u0301 ﬁ", NormalForm::kNfc), "é ﬁ");
  EXPECT_EQ(*normalize("é ﬁ", NormalForm::kNfd), "e\u0301 ﬁ");
  EXPECT_EQ(*normalize("e\u0301 ﬁ", NormalForm::kNfkc), "é fi");
  EXPECT_EQ(*normalize("가", NormalForm::kNfkd), "\u1100\u1161");
  EXPECT_EQ(*normalize("\u32FF", NormalForm::kNfkc), "\u32FF");  // of Unicode 12.1
}

TEST(Unicode, LowersAndStripsCharacterByCharacter) {
  EXPECT_EQ(lowercase("ΟΔΟΣ İ ǅ"), "οδοσ i\u0307 ǆ");
  EXPECT_EQ(without_marks("e\u0301x\u20DD"), "ex");
}

TEST(Unicode, KnowsSpacesAndWords) {
  for (const char32_t c : {U' ', U'\n', U'\x85', U'\u00A0', U'\u2028', U'\u3000'})
    EXPECT_TRUE(is_white_space(c));
  for (const char32_t c : {U'a', U'\u180E', U'\u200B', U'\uFEFF'}) EXPECT_FALSE(is_white_space(c));
  for (const char32_t c : {U'a', U'中', U'9', U'_', U'\u0301', U'\u200D'})
    EXPECT_TRUE(is_word_character(c));
  for (const char32_t c : {U'-', U' ', U'½', U'😀'}) EXPECT_FALSE(is_word_character(c));
}

TEST(ByteSymbols, SpellEveryByteInAWayThatReadsBack) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  std::string spelt;
  append_byte_symbols(bytes, &spelt);
  std::string back;
  append_spelt_bytes(spelt, &back);
  EXPECT_EQ(back, bytes);
  EXPECT_EQ(symbol_of_byte(' '), U'Ġ');
  EXPECT_EQ(symbol_of_byte('\n'), U'Ċ');
  EXPECT_EQ(symbol_of_byte(0xFF), U'ÿ');
}

TEST(ByteSymbols, LeaveATokenWithAForeignCharacterAsItIs) {
  std::string out = "x";
  append_spelt_bytes("Ġa中", &out);
  EXPECT_EQ(out, "xĠa中");
}

TEST(ByteSymbols, ReadFallbackTokens) {
  EXPECT_EQ(byte_of_fallback_token("<0x0A>"), uint8_t{10});
  EXPECT_EQ(byte_of_fallback_token("<0xff>"), uint8_t{255});
  EXPECT_EQ(fallback_token(0xE2), "<0xE2>");
  for (const char* token : {"<0x0G>", "<0x0A", "0x0A>>", "<0x0A> ", "<0xA>"}) {
    EXPECT_FALSE(byte_of_fallback_token(token)) << token;
  }
}

}  // namespace
}  // namespace skein::text
