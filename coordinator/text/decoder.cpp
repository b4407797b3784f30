#include "coordinator/text/decoder.h"

#include <algorithm>
#include <optional>

#include "coordinator/text/byte_symbols.h"
#include "coordinator/text/utf8.h"

namespace skein::text {
namespace {

using Bytes = Decoder::Bytes;

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t found; (found = text.find(from)) != text.npos;
       text.remove_prefix(found + from.size())) {
    out.append(text.substr(0, found)).append(to);
  }
  return out.append(text);
}

struct Apply {
  std::string* token;
  bool first;

  void operator()(const Decoder::Replace& step) const {
    *token = replaced(*token, step.from, step.to);
  }
  void operator()(const Decoder::Strip& step) const {
    std::string_view rest = *token;
    for (size_t i = 0; i < step.left && rest.starts_with(step.character); ++i) {
      rest.remove_prefix(step.character.size());
    }
    for (size_t i = 0; i < step.right && rest.ends_with(step.character); ++i) {
      rest.remove_suffix(step.character.size());
    }
    *token = std::string(rest);
  }
  void operator()(const Decoder::Metaspace& step) const {
    *token = replaced(*token, step.mark, first && step.drop_first ? "" : " ");
  }
};

void run_steps(const std::vector<Decoder::Step>& steps, bool first, std::string* token) {
  for (const Decoder::Step& step : steps) std::visit(Apply{token, first}, step);
}

bool can_hold_bytes(Bytes bytes) { return bytes == Bytes::kFallback || bytes == Bytes::kRaw; }

}  // namespace

std::string Decoder::bytes_of(std::string_view token) const {
  std::string text(token);
  run_steps(options_.before, false, &text);
  if (options_.bytes == Bytes::kSymbols) {
    std::string bytes;
    append_spelt_bytes(text, &bytes);
    return bytes;
  }
  if (can_hold_bytes(options_.bytes)) {
    if (const auto byte = byte_of_fallback_token(text)) return {static_cast<char>(*byte)};
  }
  run_steps(options_.behind, false, &text);
  return text;
}

void TextBuilder::push(std::string_view token, bool literal, std::string* out) {
  std::string text(token);
  if (!literal) run_steps(options_.before, first_pushed_, &text);
  first_pushed_ = false;
  const bool may_be_byte = !literal && can_hold_bytes(options_.bytes);
  const std::optional<uint8_t> byte = may_be_byte ? byte_of_fallback_token(text) : std::nullopt;
  switch (options_.bytes) {
    case Bytes::kNone: return put_token(std::move(text), out);
    case Bytes::kFallback:
      if (byte) return push_byte(*byte, out);
      end_run(out);
      return put_token(std::move(text), out);
    case Bytes::kSymbols:
    case Bytes::kRaw: {
      if (byte) {
        held_.push_back(static_cast<char>(*byte));
      } else if (literal || options_.bytes == Bytes::kRaw) {
        held_ += text;
      } else {
        append_spelt_bytes(text, &held_);
      }
      std::string certain;
      repair_utf8(&held_, false, &certain);
      put_text(certain, out);
    }
  }
}

// The whole run counts: until it ends or turns out to be no UTF-8, nothing of it is certain.
void TextBuilder::push_byte(uint8_t byte, std::string* out) {
  held_.push_back(static_cast<char>(byte));
  if (!run_broken_) {
    size_t tail = held_.size();
    do --tail;
    while (tail > 0 && held_.size() - tail < 4 &&
           (static_cast<unsigned char>(held_[tail]) & 0xC0) == 0x80);
    run_broken_ = utf8_step(std::string_view(held_).substr(tail)).kind == Utf8Step::Kind::kInvalid;
  }
  if (!run_broken_) return;
  for (size_t i = 0; i < held_.size(); ++i) put_token(std::string(kReplacementCharacter), out);
  held_.clear();
}

void TextBuilder::end_run(std::string* out) {
  run_broken_ = false;
  if (held_.empty()) return;
  std::string run = std::move(held_);
  held_.clear();
  if (is_utf8(run)) return put_token(std::move(run), out);
  for (size_t i = 0; i < run.size(); ++i) put_token(std::string(kReplacementCharacter), out);
}

void TextBuilder::put_token(std::string token, std::string* out) {
  run_steps(options_.behind, first_, &token);
  if (!first_) put_text(options_.separator, out);
  first_ = false;
  put_text(token, out);
}

void TextBuilder::put_text(std::string_view text, std::string* out) {
  const std::string& character = options_.text_start.character;
  for (; strip_left_ > 0 && text.starts_with(character); --strip_left_) {
    text.remove_prefix(character.size());
  }
  if (!text.empty()) strip_left_ = 0;
  out->append(text);
}

void TextBuilder::finish(std::string* out) {
  if (options_.bytes == Bytes::kFallback) return end_run(out);
  std::string rest;
  repair_utf8(&held_, true, &rest);
  put_text(rest, out);
}

void TextBuilder::drop_complete() {
  std::string complete;
  repair_utf8(&held_, false, &complete);
  if (complete.empty()) return;
  strip_left_ = 0;
  first_ = false;
}

}  // namespace skein::text
