#include "coordinator/text/gguf_vocabulary.h"

#include <cmath>

#include "tests/unit/coordinator/text/tiny_tokenizer.h"

namespace skein::text {
namespace {

std::unique_ptr<Tokenizer> must_make(GgufVocabulary gguf) {
  auto tokenizer = tokenizer_from(std::move(gguf));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

Status refusal(GgufVocabulary gguf) {
  auto tokenizer = tokenizer_from(std::move(gguf));
  EXPECT_FALSE(tokenizer.ok());
  return tokenizer.ok() ? Status() : tokenizer.status();
}

GgufVocabulary byte_level() {
  GgufVocabulary gguf;
  gguf.model = "gpt2";
  gguf.pre = "smollm";
  gguf.tokens = {"<|end|>", "a", "b", "Ġ", "1", "2", "ab", "Ġab", "12", "<tool é>", "Ã", "©", ""};
  gguf.types = {3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 5};
  gguf.merges = {"a b", "Ġ ab", "1 2", "Ġ ab"};
  gguf.bos = 0;
  gguf.eos = 0;
  return gguf;
}

GgufVocabulary sentence_piece() {
  GgufVocabulary gguf;
  gguf.model = "llama";
  gguf.tokens = {"<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>",
                 "▁",     "a",   "b",    "▁a",     "ab",     "▁ab"};
  gguf.types = {2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1};
  gguf.scores = {0, 0, 0, 0, 0, 0, -5, -6, -7, -1, -2, -3};
  return gguf;
}

TEST(GgufByteLevel, CutsDigitsOneByOne) {
  const auto tokenizer = must_make(byte_level());
  EXPECT_EQ(must_encode(*tokenizer, "ab ab12"), (Ids{6, 7, 4, 5}));
  EXPECT_EQ(tokenizer->decode(Ids{6, 7, 4, 5}, true), "ab ab12");
}

TEST(GgufByteLevel, ReadsSpecialAndUserDefinedTokensAsTheyStand) {
  const auto tokenizer = must_make(byte_level());
  const Ids ids = must_encode(*tokenizer, "a<|end|><tool é>é");
  EXPECT_EQ(ids, (Ids{1, 0, 9, 10, 11}));
  EXPECT_EQ(tokenizer->decode(ids, true), "a<tool é>é");
  EXPECT_EQ(tokenizer->decode(ids, false), "a<|end|><tool é>é");
  EXPECT_EQ(tokenizer->token_bytes(9), "<tool é>");
  EXPECT_EQ(tokenizer->token_bytes(7), " ab");
  EXPECT_TRUE(tokenizer->is_special(0));
  EXPECT_FALSE(tokenizer->is_special(9));
  EXPECT_EQ(tokenizer->size(), 12);  // the last one is empty
}

TEST(GgufByteLevel, AddsTokensAsTheFileOrThePreTokenizerSays) {
  GgufVocabulary gguf = byte_level();
  EXPECT_EQ(must_encode(*must_make(gguf), "a", true), (Ids{1}));
  gguf.add_bos = true;
  gguf.add_eos = true;
  EXPECT_EQ(must_encode(*must_make(gguf), "a", true), (Ids{0, 1, 0}));
  EXPECT_EQ(must_encode(*must_make(gguf), "a", false), (Ids{1}));
  gguf = byte_level();
  gguf.pre = "llama-bpe";
  EXPECT_EQ(must_encode(*must_make(gguf), "12", true), (Ids{0, 8}));
  gguf.bos.reset();
  EXPECT_EQ(refusal(gguf).code(), Code::kCorrupt);
}

TEST(GgufSentencePiece, MergesByScoreWithASpaceBefore) {
  const auto tokenizer = must_make(sentence_piece());
  EXPECT_EQ(must_encode(*tokenizer, "ab", true), (Ids{1, 11}));
  EXPECT_EQ(must_encode(*tokenizer, "ab ab"), (Ids{11, 11}));
  EXPECT_EQ(must_encode(*tokenizer, "é\n"), (Ids{6, 4, 5, 3}));
  EXPECT_EQ(must_encode(*tokenizer, "ü"), (Ids{6, 0}));
  EXPECT_EQ(must_encode(*tokenizer, ""), Ids{});
  EXPECT_EQ(must_encode(*tokenizer, "a</s>a"), (Ids{9, 2, 9}));  // a space again
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
}

TEST(GgufSentencePiece, DecodesSpacesAndBytes) {
  const auto tokenizer = must_make(sentence_piece());
  EXPECT_EQ(tokenizer->decode(Ids{1, 11, 9, 4, 5, 3}, true), "ab aé\n");
  EXPECT_EQ(tokenizer->decode(Ids{1, 11}, false), "<s> ab");
  EXPECT_EQ(tokenizer->decode(Ids{4, 8}, true), "\uFFFDb");
  EXPECT_EQ(tokenizer->token_bytes(4), "\xC3");
}

TEST(GgufSentencePiece, CanLeaveTheSpaceOut) {
  GgufVocabulary gguf = sentence_piece();
  gguf.add_space_prefix = false;
  const auto tokenizer = must_make(gguf);
  EXPECT_EQ(must_encode(*tokenizer, "ab ab"), (Ids{10, 11}));
  EXPECT_EQ(tokenizer->decode(Ids{11}, true), " ab");
}

TEST(GgufVocabulary, RefusesWhatItDoesNotKnow) {
  GgufVocabulary gguf = byte_level();
  gguf.model = "bert";
  EXPECT_EQ(refusal(gguf).code(), Code::kUnsupported);
  gguf = byte_level();
  gguf.pre = "viking";
  const Status status = refusal(gguf);
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("viking"), std::string::npos);
  EXPECT_NE(status.message().find("smollm"), std::string::npos);
}

TEST(GgufVocabulary, RefusesContradictions) {
  const auto corrupt_after = [](GgufVocabulary gguf, auto change) {
    change(&gguf);
    EXPECT_EQ(refusal(std::move(gguf)).code(), Code::kCorrupt);
  };
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->tokens.clear(); });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->types.pop_back(); });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->tokens[1] = "b"; });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->tokens[1] = "\xFF"; });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->merges = {"ab"}; });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->merges = {"a c"}; });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->merges.clear(); });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->bos = 99; });
  corrupt_after(byte_level(), [](GgufVocabulary* g) { g->eos = -1; });
  corrupt_after(sentence_piece(), [](GgufVocabulary* g) { g->scores.pop_back(); });
  corrupt_after(sentence_piece(), [](GgufVocabulary* g) { g->scores[7] = std::nan(""); });
  corrupt_after(sentence_piece(), [](GgufVocabulary* g) { g->unknown = 12; });
}

}  // namespace
}  // namespace skein::text
