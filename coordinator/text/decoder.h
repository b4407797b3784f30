#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace skein::text {

// How tokens become text. Immutable, thread-safe.
class Decoder {
 public:
  struct Replace {
    std::string from;  // not empty
    std::string to;
  };
  // Up to `left` of `character` at a token's start and `right` at its end.
  struct Strip {
    std::string character;
    size_t left = 0;
    size_t right = 0;
  };
  // The mark becomes a space; in the first token it vanishes if `drop_first`.
  struct Metaspace {
    std::string mark;
    bool drop_first = true;
  };
  using Step = std::variant<Replace, Strip, Metaspace>;  // on one token

  enum class Bytes : uint8_t {
    kNone,      // tokens are text
    kSymbols,   // tokens spell bytes (byte_symbols.h); what is no UTF-8 becomes U+FFFD
    kFallback,  // "<0x0A>" is a byte; a run of bytes that is no UTF-8 becomes U+FFFD throughout
    kRaw,       // "<0x0A>" is a byte; what is no UTF-8 becomes U+FFFD
  };

  struct Options {
    std::vector<Step> before = {};  // on each token
    Bytes bytes = Bytes::kNone;
    std::vector<Step> behind = {};  // on what the bytes made of it
    std::string separator = {};     // between tokens
    Strip text_start = {};          // of the whole text; only `left` counts
  };

  Decoder() = default;
  explicit Decoder(Options options) : options_(std::move(options)) {}
  // `json` is tokenizer.json's "decoder", or null.
  static Result<Decoder> parse(const Json* json);

  const Options& options() const { return options_; }
  // What `token` adds to a text that has begun.
  std::string bytes_of(std::string_view token) const;

 private:
  Options options_;
};

// One text in the making. Single-owner; the Decoder must outlive it.
class TextBuilder {
 public:
  explicit TextBuilder(const Decoder& decoder)
      : options_(decoder.options()), strip_left_(options_.text_start.left) {}

  // Appends to `*out` what is certain after this token. A `literal` token is text as it stands.
  // Requires: `token` is valid UTF-8.
  void push(std::string_view token, bool literal, std::string* out);
  // Appends what was held back.
  void finish(std::string* out);
  // Forgets what is complete among what was held back.
  void drop_complete();

 private:
  void push_byte(uint8_t byte, std::string* out);
  void end_run(std::string* out);
  void put_token(std::string token, std::string* out);
  void put_text(std::string_view text, std::string* out);

  const Decoder::Options& options_;
  std::string held_;          // bytes that are not certain yet
  bool run_broken_ = false;   // the run of bytes is known to be no UTF-8
  bool first_pushed_ = true;  // no token came in yet
  bool first_ = true;         // no token was put yet: bytes may be held
  size_t strip_left_;         // how many characters the text's start may still lose
};

}  // namespace skein::text
