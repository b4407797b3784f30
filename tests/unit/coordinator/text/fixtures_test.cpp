#include <fstream>
#include <sstream>

#include "tests/unit/coordinator/text/tiny_tokenizer.h"

// The answers that Hugging Face tokenizers gave for small tokenizers of every kind; recorded by
// tests/oracles/tokenizers/make_tiny.py.

namespace skein {
namespace {

constexpr char kFolder[] = "tests/oracles/fixtures/tokenizers/";

Json read(const std::string& name) {
  std::ifstream in(kFolder + name, std::ios::binary);
  EXPECT_TRUE(in.good()) << name;
  std::ostringstream text;
  text << in.rdbuf();
  return must_parse(text.str());
}

class Fixture : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    tokenizer_ = must_load(read(std::string(GetParam()) + ".json"));
    ASSERT_NE(tokenizer_, nullptr);
    lines_ = read("lines.json");
    expected_ = read(std::string(GetParam()) + ".expected.json");
    ASSERT_EQ(lines_.as_array().size(), expected_.as_array().size());
    ASSERT_GE(lines_.as_array().size(), 300u);
  }

  const std::string& line(size_t i) const { return lines_.as_array()[i].as_string(); }
  Ids ids(size_t i) const {
    Ids result;
    for (const Json& id : expected_.as_array()[i].as_array()[0].as_array()) {
      result.push_back(static_cast<int32_t>(id.as_int()));
    }
    return result;
  }
  // Null stands for the line itself.
  const std::string& decoded(size_t i, bool skip_special) const {
    const Json& text = expected_.as_array()[i].as_array()[skip_special ? 1 : 2];
    return text.is_null() ? line(i) : text.as_string();
  }
  size_t count() const { return lines_.as_array().size(); }

  std::unique_ptr<Tokenizer> tokenizer_;
  Json lines_;
  Json expected_;
};

TEST_P(Fixture, EncodesAsHuggingFace) {
  for (size_t i = 0; i < count(); ++i)
    EXPECT_EQ(must_encode(*tokenizer_, line(i), true), ids(i)) << line(i);
}

TEST_P(Fixture, DecodesAsHuggingFace) {
  for (size_t i = 0; i < count(); ++i) {
    EXPECT_EQ(tokenizer_->decode(ids(i), true), decoded(i, true));
    EXPECT_EQ(tokenizer_->decode(ids(i), false), decoded(i, false));
  }
}

TEST_P(Fixture, DecodesInPiecesOfWholeCharacters) {
  for (size_t i = 0; i < count(); ++i) {
    IncrementalDecoder decoder(*tokenizer_, true);
    std::string text;
    for (const int32_t id : ids(i)) {
      const std::string piece = decoder.push(id);
      // A JSON string escapes everything but invalid UTF-8, which it replaces.
      std::string quoted;
      append_json_string(piece, &quoted);
      EXPECT_EQ(must_parse(quoted).as_string(), piece);
      text += piece;
    }
    text += decoder.finish();
    EXPECT_EQ(text, decoded(i, true));
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Fixture,
                         testing::Values("gpt2", "gpt2_prefix_digits", "llama3", "qwen2", "llama2",
                                         "mistral", "unknowns", "behaviours"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace skein
