#include "coordinator/text/decoder.h"

#include "tests/unit/coordinator/text/tiny_tokenizer.h"

namespace skein::text {
namespace {

Decoder decoder_of(std::string_view json) {
  const Json parsed = must_parse(json);
  auto decoder = Decoder::parse(&parsed);
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  return decoder.ok() ? std::move(decoder).value() : Decoder();
}

std::string decode(std::string_view json, const std::vector<std::string>& tokens) {
  const Decoder decoder = decoder_of(json);
  TextBuilder builder(decoder);
  std::string text;
  for (const std::string& token : tokens) builder.push(token, false, &text);
  builder.finish(&text);
  return text;
}

constexpr std::string_view kLlama =
    R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";

TEST(Decoder, JoinsByteTokensOrGivesUpOnTheWholeRun) {
  EXPECT_EQ(decode(kLlama, {"▁a", "<0xC3>", "<0xA9>", "▁b"}), "aé b");
  EXPECT_EQ(decode(kLlama, {"<0xC3>", "<0xA9>", "<0xFF>", "a"}), "\uFFFD\uFFFD\uFFFDa");
  EXPECT_EQ(decode(kLlama, {"a", "<0xE4>", "<0xB8>"}), "a\uFFFD\uFFFD");
  EXPECT_EQ(decode(kLlama, {"<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x0A>"}), "😀\n");
  EXPECT_EQ(decode(kLlama, {"<0x41>", "<0x80>", "<0x42>", "x", "<0x43>"}), "\uFFFD\uFFFD\uFFFDxC");
}

TEST(Decoder, StripsTheStartOfTheTextOnly) {
  EXPECT_EQ(decode(kLlama, {"▁▁a", "▁b"}), " a b");
  EXPECT_EQ(decode(kLlama, {"▁", "▁b"}), " b");
  EXPECT_EQ(decode(kLlama, {"<0x20>", "<0x20>"}), " ");
  EXPECT_EQ(decode(kLlama, {}), "");
}

TEST(Decoder, DropsMetaspaceOfTheFirstTokenOnly) {
  constexpr std::string_view kMetaspace =
      R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})";
  EXPECT_EQ(decode(kMetaspace, {"▁a▁", "▁b"}), "a b");
  EXPECT_EQ(
      decode(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})", {"▁a"}),
      " a");
  EXPECT_EQ(decode(R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": true})",
                   {"_a", "_b"}),
            "a b");
  // The first token is a held byte: the second one is not first.
  EXPECT_EQ(
      decode(
          R"({"type": "Sequence", "decoders": [{"type": "Metaspace", "replacement": "▁"}, {"type": "ByteFallback"}]})",
          {"<0x41>", "▁b"}),
      "A b");
}

TEST(Decoder, RepairsBytesOfTheWholeText) {
  constexpr std::string_view kBytes = R"({"type": "ByteLevel"})";
  EXPECT_EQ(decode(kBytes, {"Ã", "©Ġ", "Ċ"}), "é \n");
  EXPECT_EQ(decode(kBytes, {"Ã", "a", "ä¸"}), "\uFFFDa\uFFFD");
  EXPECT_EQ(decode(kBytes, {"Ġ中", "<s> x"}), "Ġ中<s> x");
}

TEST(Decoder, WorksOnTokensOneByOne) {
  EXPECT_EQ(decode(R"({"type": "Strip", "content": "x", "start": 1, "stop": 2})", {"xxaxxx", "x"}),
            "xax");
  EXPECT_EQ(decode("null", {"a", "b"}), "a b");
}

TEST(Decoder, SaysWhatOneTokenAddsToAText) {
  EXPECT_EQ(decoder_of(kLlama).bytes_of("▁a"), " a");
  EXPECT_EQ(decoder_of(kLlama).bytes_of("<0xE4>"), "\xE4");
  EXPECT_EQ(decoder_of(R"({"type": "ByteLevel"})").bytes_of("Ġä¸"), " \xE4\xB8");
}

TEST(Decoder, RefusesWhatItCannotDoAsAStream) {
  for (
      const char* json :
      {R"({"type": "WordPiece"})",
       R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})",
       R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
           {"type": "Strip", "content": " ", "start": 0, "stop": 1}]})",
       R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Metaspace", "replacement": "▁"}]})",
       R"({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""})", R"({"type": "CTC"})"}) {
    const Json parsed = must_parse(json);
    const auto decoder = Decoder::parse(&parsed);
    ASSERT_FALSE(decoder.ok()) << json;
    EXPECT_EQ(decoder.status().code(), Code::kUnsupported) << json;
    EXPECT_NE(decoder.status().message().find("decoder"), std::string::npos);
  }
}

}  // namespace
}  // namespace skein::text
