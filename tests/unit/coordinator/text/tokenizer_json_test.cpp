#include "coordinator/text/pipeline.h"
#include "tests/unit/coordinator/text/tiny_tokenizer.h"

namespace skein {
namespace {

// tiny_json() with one member, of the whole or of the model, replaced.
Json with(std::string_view key, std::string_view value) {
  Json json = tiny_json();
  json.set(key, must_parse(value));
  return json;
}
Json with_model(std::string_view key, std::string_view value) {
  Json json = tiny_json();
  Json model = *json.find("model");
  model.set(key, must_parse(value));
  json.set("model", std::move(model));
  return json;
}

void expect_refusal(const Json& json, Code code, std::string_view named,
                    const Json& config = Json()) {
  const auto tokenizer = Tokenizer::from_json(json, config);
  ASSERT_FALSE(tokenizer.ok()) << named;
  EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status().message();
  EXPECT_NE(tokenizer.status().message().find(named), std::string::npos)
      << tokenizer.status().message();
}

TEST(TokenizerJson, EncodesAndAnswersForTokens) {
  const auto tokenizer = must_load(tiny_json());
  EXPECT_EQ(must_encode(*tokenizer, "abb a<s>\né"), (Ids{5, 7, 1, 10, 11}));
  EXPECT_EQ(tokenizer->decode(Ids{5, 7, 1, 10, 8, 9}, true), "abb a\né");
  EXPECT_EQ(tokenizer->decode(Ids{-1, 13, 1'000'000, 2}, true), "a");
  EXPECT_EQ(tokenizer->size(), 13);
  EXPECT_EQ(tokenizer->find("</s>"), 12);
  EXPECT_EQ(tokenizer->find("ab"), 4);
  EXPECT_EQ(tokenizer->find("x"), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(12));
  EXPECT_FALSE(tokenizer->is_special(2));
  EXPECT_EQ(tokenizer->token_bytes(8), "\xC3");
  EXPECT_EQ(tokenizer->bos(), std::nullopt);
}

TEST(TokenizerJson, RefusesTextThatIsNoUtf8OrTooLong) {
  const auto tokenizer = must_load(tiny_json());
  EXPECT_EQ(tokenizer->encode("a\xFF", false).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(tokenizer->encode(std::string(text::kTextBytesMax + 1, 'a'), false).status().code(),
            Code::kInvalidArgument);
}

TEST(TokenizerJson, NamesWhatItDoesNotSupport) {
  expect_refusal(with_model("type", "\"Unigram\""), Code::kUnsupported, "Unigram");
  expect_refusal(with_model("type", "\"WordPiece\""), Code::kUnsupported, "WordPiece");
  expect_refusal(with_model("dropout", "0.1"), Code::kUnsupported, "dropout");
  expect_refusal(with_model("end_of_word_suffix", "\"</w>\""), Code::kUnsupported,
                 "end_of_word_suffix");
  expect_refusal(with("normalizer", R"({"type": "BertNormalizer"})"), Code::kUnsupported,
                 "BertNormalizer");
  expect_refusal(with("pre_tokenizer", R"({"type": "UnicodeScripts"})"), Code::kUnsupported,
                 "UnicodeScripts");
  expect_refusal(with("decoder", R"({"type": "CTC"})"), Code::kUnsupported, "CTC");
  expect_refusal(with("post_processor", R"({"type": "BertProcessing"})"), Code::kUnsupported,
                 "BertProcessing");
  expect_refusal(
      with("pre_tokenizer",
           R"({"type": "Split", "pattern": {"Regex": "(a)\\1"}, "behavior": "Isolated"})"),
      Code::kUnsupported, "regular expression");
  std::string deep = R"({"type": "Lowercase"})";
  for (int i = 0; i < 20; ++i) deep = R"({"type": "Sequence", "normalizers": [)" + deep + "]}";
  expect_refusal(with("normalizer", deep), Code::kUnsupported, "nesting");
}

TEST(TokenizerJson, RefusesContradictions) {
  expect_refusal(Json::array(), Code::kCorrupt, "object");
  expect_refusal(with("model", "[]"), Code::kCorrupt, "model");
  expect_refusal(with_model("vocab", R"({"a": 1.5})"), Code::kCorrupt, "vocab");
  expect_refusal(with_model("vocab", R"({"a": 4000000})"), Code::kCorrupt, "4000000");
  expect_refusal(with_model("merges", R"(["a b c"])"), Code::kCorrupt, "a b c");
  expect_refusal(with_model("merges", R"([["a", "x"]])"), Code::kCorrupt, "\"x\"");
  expect_refusal(with_model("merges", R"([["a"]])"), Code::kCorrupt, "merges");
  expect_refusal(with_model("unk_token", "\"<none>\""), Code::kCorrupt, "unk_token");
  expect_refusal(with_model("byte_fallback", "1"), Code::kCorrupt, "byte_fallback");
  expect_refusal(with("added_tokens", R"([{"id": 5, "content": "<x>"}])"), Code::kCorrupt,
                 "another token");
  expect_refusal(with("added_tokens", R"([{"id": 5, "content": "a"}])"), Code::kCorrupt,
                 "the vocabulary says 2");
  expect_refusal(with("added_tokens", R"([{"id": 900000, "content": "<x>"}])"), Code::kCorrupt,
                 "far above");
  expect_refusal(
      with("added_tokens", R"([{"id": 20, "content": "<x>"}, {"id": 20, "content": "<y>"}])"),
      Code::kCorrupt, "twice");
  expect_refusal(with("added_tokens", R"([{"content": "<x>"}])"), Code::kCorrupt, "id");
  expect_refusal(with("added_tokens", "7"), Code::kCorrupt, "added_tokens");
  expect_refusal(with("decoder", "7"), Code::kCorrupt, "type");
  expect_refusal(with("pre_tokenizer", R"({"type": "Split", "pattern": "a"})"), Code::kCorrupt,
                 "pattern");
  expect_refusal(with("pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})"),
                 Code::kCorrupt, "replacement");
}

constexpr std::string_view kTemplate =
    R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
  "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}]})";

TEST(TokenizerJson, PutsTheTemplateAround) {
  const auto tokenizer = must_load(with("post_processor", kTemplate));
  EXPECT_EQ(must_encode(*tokenizer, "a", true), (Ids{1, 2}));
  EXPECT_EQ(must_encode(*tokenizer, "a", false), (Ids{2}));
  EXPECT_EQ(must_encode(*tokenizer, "", true), (Ids{1}));
}

TEST(TokenizerJson, RefusesATemplateItCannotFollow) {
  const auto changed = [](std::string_view from, std::string_view to) {
    std::string text(kTemplate);
    text.replace(text.find(from), from.size(), to);
    return with("post_processor", text);
  };
  expect_refusal(changed("\"ids\": [1]", "\"ids\": [77]"), Code::kCorrupt, "77");
  expect_refusal(changed("\"ids\": [1]", "\"ids\": [-1]"), Code::kCorrupt, "special_tokens");
  expect_refusal(changed(R"({"Sequence": {"id": "A", "type_id": 0}})",
                         R"({"Sequence": {"id": "B", "type_id": 0}})"),
                 Code::kUnsupported, "more than one text");
  expect_refusal(changed(R"(, {"Sequence": {"id": "A", "type_id": 0}})", ""), Code::kUnsupported,
                 "without the text");
}

TEST(TokenizerConfig, NamesBeginAndEnd) {
  const Json config =
      must_parse(R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>"})");
  const auto tokenizer = must_load(tiny_json(), config);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 12);
  EXPECT_EQ(must_load(tiny_json(), must_parse(R"({"bos_token": null})"))->bos(), std::nullopt);
  expect_refusal(tiny_json(), Code::kCorrupt, "<none>", must_parse(R"({"eos_token": "<none>"})"));
  expect_refusal(tiny_json(), Code::kCorrupt, "eos_token", must_parse(R"({"eos_token": 3})"));
}

TEST(TokenizerConfig, MakesAnEndTokenSpecialThatTheTokenizerDoesNot) {
  const auto tokenizer = must_load(tiny_json(), must_parse(R"({"eos_token": "abb"})"));
  EXPECT_TRUE(tokenizer->is_special(5));
  EXPECT_EQ(tokenizer->decode(must_encode(*tokenizer, "aabba"), true), "aa");
}

TEST(TokenizerConfig, SwitchesBeginAndEndOnAndOff) {
  const auto encoded = [](const Json& json, std::string_view switches) {
    const std::string config =
        R"({"bos_token": "<s>", "eos_token": "</s>", )" + std::string(switches) + "}";
    return must_encode(*must_load(json, must_parse(config)), "a", true);
  };
  const Json plain = tiny_json();
  const Json templated = with("post_processor", kTemplate);
  EXPECT_EQ(encoded(plain, R"("add_bos_token": true, "add_eos_token": true)"), (Ids{1, 2, 12}));
  EXPECT_EQ(encoded(templated, R"("add_bos_token": true)"), (Ids{1, 2}));
  EXPECT_EQ(encoded(templated, R"("add_bos_token": false)"), (Ids{2}));
  EXPECT_EQ(encoded(templated, R"("add_bos_token": null)"), (Ids{1, 2}));
  expect_refusal(plain, Code::kCorrupt, "add_bos_token", must_parse(R"({"add_bos_token": true})"));
}

TEST(TokenizerJson, GivesUpOnAHostilePatternWithAStatus) {
  const auto tokenizer = must_load(
      with("pre_tokenizer",
           R"({"type": "Split", "pattern": {"Regex": "(?:a+)+$"}, "behavior": "Isolated"})"));
  EXPECT_EQ(tokenizer->encode(std::string(64, 'a') + "b", false).status().code(),
            Code::kResourceExhausted);
}

TEST(TokenizerJson, PrependsOnlyWhereTheInputBegins) {
  const auto tokenizer = must_load(with(
      "pre_tokenizer",
      R"({"type": "Metaspace", "replacement": " ", "prepend_scheme": "first", "split": false})"));
  EXPECT_EQ(must_encode(*tokenizer, "a<s>a"), (Ids{7, 1, 2}));
  EXPECT_EQ(must_encode(*tokenizer, "<s>a"), (Ids{1, 2}));
}

}  // namespace
}  // namespace skein
