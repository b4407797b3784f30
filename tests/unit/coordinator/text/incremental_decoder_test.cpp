#include <random>

#include "coordinator/text/byte_symbols.h"
#include "coordinator/text/utf8.h"
#include "tests/unit/coordinator/text/tiny_tokenizer.h"

namespace skein {
namespace {

// A tokenizer whose tokens are the 256 bytes, then `extra`; either spelt by symbols or as "<0x..>".
std::unique_ptr<Tokenizer> bytes_tokenizer(bool fallback,
                                           const std::vector<std::string>& extra = {}) {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    if (fallback) {
      token = text::fallback_token(static_cast<uint8_t>(byte));
    } else {
      text::append_code_point(text::symbol_of_byte(static_cast<uint8_t>(byte)), &token);
    }
    vocab.set(token, Json(byte));
  }
  for (size_t i = 0; i < extra.size(); ++i)
    vocab.set(extra[i], Json(static_cast<int64_t>(256 + i)));
  Json json = tiny_json();
  json.set("added_tokens", Json::array());
  json.set("decoder", must_parse(fallback ? R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})"
                                          : R"({"type": "ByteLevel"})"));
  Json model = *json.find("model");
  model.set("vocab", std::move(vocab));
  model.set("merges", Json::array());
  model.set("unk_token", Json());
  json.set("model", std::move(model));
  return must_load(json);
}

// Only what Tokenizer itself offers: for its default stream().
class BareTokenizer : public Tokenizer {
 public:
  explicit BareTokenizer(const Tokenizer& inner) : inner_(inner) {}
  Result<Ids> encode(std::string_view text, bool specials) const override {
    return inner_.encode(text, specials);
  }
  std::string decode(std::span<const int32_t> ids, bool skip) const override {
    return inner_.decode(ids, skip);
  }
  std::string token_bytes(int32_t id) const override { return inner_.token_bytes(id); }
  bool is_special(int32_t id) const override { return inner_.is_special(id); }
  std::optional<int32_t> find(std::string_view token) const override { return inner_.find(token); }
  int32_t size() const override { return inner_.size(); }
  std::optional<int32_t> bos() const override { return inner_.bos(); }
  std::optional<int32_t> eos() const override { return inner_.eos(); }

 private:
  const Tokenizer& inner_;
};

std::string rest(IncrementalDecoder* decoder, const Ids& ids) {
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder->push(id);
    EXPECT_TRUE(text::is_utf8(piece));
    text += piece;
  }
  return text + decoder->finish();
}

std::string in_pieces(const Tokenizer& tokenizer, const Ids& ids, bool skip = true) {
  IncrementalDecoder decoder(tokenizer, skip);
  return rest(&decoder, ids);
}

TEST(IncrementalDecoder, NeverSplitsACharacter) {
  const auto tokenizer = bytes_tokenizer(false);
  IncrementalDecoder decoder(*tokenizer, true);
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push(0x9F), "");
  EXPECT_EQ(decoder.push(0x98), "");
  EXPECT_EQ(decoder.push(0x80), "😀");
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xE4), "");
  EXPECT_EQ(decoder.push('b'), "\uFFFDb");
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
}

TEST(IncrementalDecoder, HoldsARunOfByteTokensUntilItIsCertain) {
  const auto tokenizer = bytes_tokenizer(true, {"▁x", "y"});
  IncrementalDecoder decoder(*tokenizer, true);
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.push(0xA9), "");
  EXPECT_EQ(decoder.push(257), "éy");
  EXPECT_EQ(decoder.push('A'), "");
  EXPECT_EQ(decoder.push(0xFF), "\uFFFD\uFFFD");
  EXPECT_EQ(decoder.push('B'), "\uFFFD");  // the run goes on
  EXPECT_EQ(decoder.push(256), " x");
  EXPECT_EQ(decoder.push('C'), "");
  EXPECT_EQ(decoder.finish(), "C");
}

TEST(IncrementalDecoder, EqualsDecodeForAnyIds) {
  for (const bool fallback : {false, true}) {
    const auto tokenizer = bytes_tokenizer(fallback, {"▁x", "y", "▁", "Ġé"});
    std::mt19937 random(7);
    for (int round = 0; round < 2000; ++round) {
      Ids ids;
      for (size_t i = random() % 12; i > 0; --i) {
        const int32_t kinds[] = {
            static_cast<int32_t>(random() % 262) - 1, static_cast<int32_t>(0x80 + random() % 64),
            static_cast<int32_t>(0xC2 + random() % 51), static_cast<int32_t>(' ')};
        ids.push_back(kinds[random() % 4]);
      }
      ASSERT_EQ(in_pieces(*tokenizer, ids), tokenizer->decode(ids, true));
      if (!fallback) {
        ASSERT_EQ(in_pieces(BareTokenizer(*tokenizer), ids), tokenizer->decode(ids, true));
      }
    }
  }
}

TEST(IncrementalDecoder, KeepsTheFirstSpaceBehindAPrompt) {
  const auto tokenizer = bytes_tokenizer(true, {"▁x", "y"});
  IncrementalDecoder fresh(*tokenizer, true);
  EXPECT_EQ(fresh.push(256), "x");
  IncrementalDecoder primed(*tokenizer, true);
  primed.prime(Ids{257, 257});
  EXPECT_EQ(primed.push(256), " x");
}

TEST(IncrementalDecoder, GivesNothingOfAPromptButAnIncompleteCharacter) {
  for (const bool fallback : {false, true}) {
    const auto tokenizer = bytes_tokenizer(fallback, {"y"});
    IncrementalDecoder decoder(*tokenizer, true);
    decoder.prime(Ids{256, '\n'});
    EXPECT_EQ(rest(&decoder, {256}), "y");
    IncrementalDecoder split(*tokenizer, true);
    split.prime(Ids{256, '\n', 0xC3});
    EXPECT_EQ(rest(&split, {0xA9, 256}), "éy");
  }
}

TEST(IncrementalDecoder, LooksBackBeyondSpecialTokens) {
  Json json = tiny_json();
  json.set("decoder", must_parse(R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})"));
  const auto tokenizer = must_load(json);
  Ids prompt(500, 1);  // <s>
  prompt[0] = 2;
  IncrementalDecoder decoder(*tokenizer, true);
  decoder.prime(prompt);
  EXPECT_EQ(decoder.push(7), " a");
  EXPECT_EQ(in_pieces(*tokenizer, {1, 7}, false), "<s> a");
  EXPECT_EQ(in_pieces(*tokenizer, {1, 7}, true), "a");
}

}  // namespace
}  // namespace skein
