#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/text/tokenizer.h"

namespace skein {

inline Json must_parse(std::string_view text) {
  auto json = parse_json(text);
  EXPECT_TRUE(json.ok()) << json.status().message();
  return std::move(json).value();
}

// A tokenizer.json of a few tokens, to be varied: a, b, ab, abb, "▁a", bytes of "é" and of a
// newline.
inline Json tiny_json() {
  return must_parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "<unk>", "special": true, "normalized": false},
      {"id": 1, "content": "<s>", "special": true, "normalized": false},
      {"id": 12, "content": "</s>", "special": true, "normalized": false}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": false, "byte_fallback": true,
      "vocab": {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "ab": 4, "abb": 5, " ": 6, " a": 7,
                "<0xC3>": 8, "<0xA9>": 9, "<0x0A>": 10, "é": 11},
      "merges": ["a b", ["ab", "b"], [" ", "a"]]}})");
}

inline std::unique_ptr<Tokenizer> must_load(const Json& json, const Json& config = Json()) {
  auto tokenizer = Tokenizer::from_json(json, config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

inline std::vector<int32_t> must_encode(const Tokenizer& tokenizer, std::string_view text,
                                        bool specials = false) {
  auto ids = tokenizer.encode(text, specials);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? std::move(ids).value() : std::vector<int32_t>{};
}

using Ids = std::vector<int32_t>;

}  // namespace skein
