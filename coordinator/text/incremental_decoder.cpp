#include <algorithm>

#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"

namespace skein {
namespace {

constexpr size_t kContextTokens = 64;

// For a tokenizer whose text is its tokens' bytes.
class ByteStream final : public TextStream {
 public:
  ByteStream(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  std::string push(int32_t id) override {
    std::string out;
    if (id < 0 || id >= tokenizer_.size()) return out;
    if (skip_special_tokens_ && tokenizer_.is_special(id)) return out;
    held_ += tokenizer_.token_bytes(id);
    text::repair_utf8(&held_, false, &out);
    return out;
  }
  std::string finish() override {
    std::string out;
    text::repair_utf8(&held_, true, &out);
    return out;
  }
  void drop_complete() override {}  // what is held is never complete

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  std::string held_;
};

}  // namespace

std::unique_ptr<TextStream> Tokenizer::stream(bool skip_special_tokens) const {
  return std::make_unique<ByteStream>(*this, skip_special_tokens);
}

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer),
      skip_special_tokens_(skip_special_tokens),
      stream_(tokenizer.stream(skip_special_tokens)) {}

void IncrementalDecoder::prime(std::span<const int32_t> prompt) {
  stream_ = tokenizer_.stream(skip_special_tokens_);
  size_t first = prompt.size();
  for (size_t shown = 0; first > 0 && shown < kContextTokens; --first) {
    const int32_t id = prompt[first - 1];
    if (!skip_special_tokens_ || !tokenizer_.is_special(id)) ++shown;
  }
  for (const int32_t id : prompt.subspan(first)) stream_->push(id);
  stream_->drop_complete();
}

std::string IncrementalDecoder::push(int32_t id) { return stream_->push(id); }

std::string IncrementalDecoder::finish() { return stream_->finish(); }

}  // namespace skein
