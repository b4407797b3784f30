#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace skein {

class GgufFile;

// One text growing id by id; see IncrementalDecoder. Single-owner; its tokenizer must outlive it.
class TextStream {
 public:
  virtual ~TextStream() = default;
  virtual std::string push(int32_t id) = 0;
  virtual std::string finish() = 0;
  virtual void drop_complete() = 0;  // forgets the complete characters of what is held back
};

// Text to token ids and back, equal to Hugging Face tokenizers (tokenizer.json) or llama.cpp
// (GGUF). Immutable, thread-safe.
class Tokenizer {
 public:
  // `config` is tokenizer_config.json or null.
  static Result<std::unique_ptr<Tokenizer>> from_json(const Json& tokenizer, const Json& config);
  static Result<std::unique_ptr<Tokenizer>> from_gguf(const GgufFile& file);
  virtual ~Tokenizer() = default;

  // Special tokens that occur in `text` become their ids. `add_special_tokens` adds what the
  // model's post-processor adds (a beginning-of-sequence token, usually). kInvalidArgument for text
  // that is no UTF-8.
  virtual Result<std::vector<int32_t>> encode(std::string_view text,
                                              bool add_special_tokens) const = 0;
  // Ids out of range give nothing. The result may hold U+FFFD where bytes form no character.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const = 0;
  // decode() piece by piece. By default the tokens' bytes, U+FFFD where they form no character.
  virtual std::unique_ptr<TextStream> stream(bool skip_special_tokens) const;

  // The bytes that `id` adds to a text (not yet checked to be UTF-8). Requires: 0 <= id < size().
  virtual std::string token_bytes(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual std::optional<int32_t> find(std::string_view token) const = 0;
  virtual int32_t size() const = 0;  // highest id + 1
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
};

// Turns a stream of ids into text that never ends within a character, at a constant cost per id.
// Single-owner. The concatenation of everything returned equals Tokenizer::decode of all ids. (So a
// run of byte-fallback tokens comes out as a whole when it ends: one byte that fits no character
// would turn all of the run into U+FFFD.)
class IncrementalDecoder {
 public:
  IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  // Treats `prompt`'s last ids as context, so that a continuation's first space is kept as decode()
  // would. Of the prompt's own text only bytes of a character that it leaves incomplete come out.
  // Requires: nothing was pushed yet.
  void prime(std::span<const int32_t> prompt);
  std::string push(int32_t id);  // the text that is now certain; may be empty
  std::string finish();          // what was held back

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  std::unique_ptr<TextStream> stream_;
};

}  // namespace skein
