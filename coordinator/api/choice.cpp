#include "coordinator/api/choice.h"

#include <algorithm>

#include "base/check.h"

namespace skein {
namespace {

constexpr size_t kEntryBytes = 96;     // of one token with its log-probability as JSON, about
constexpr size_t kTopEntryBytes = 48;  // of one alternative

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

template <typename T>
void move_append(std::vector<T>* to, std::vector<T> from) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void ChoiceDelta::append(ChoiceDelta next) {
  text += next.text;
  move_append(&tokens, std::move(next.tokens));
  move_append(&entries, std::move(next.entries));
  finish_reason = next.finish_reason;
  stop_reason = std::move(next.stop_reason);
}

size_t ChoiceDelta::bytes() const {
  size_t total = text.size() + 8 * tokens.size();
  for (const TokenEntry& entry : entries) {
    total += kEntryBytes + kTopEntryBytes * entry.logprob.top.size();
  }
  return total;
}

Choice::Choice(const ServedModel& model, const PreparedRequest& request, const Prompt& prompt)
    : model_(model),
      request_(request),
      prompt_(prompt),
      matcher_(request.answer.stops, request.answer.include_stop_text) {
  if (model.tokenizer == nullptr) return;
  decoder_.emplace(*model.tokenizer, request.answer.skip_special_tokens);
  decoder_->prime(prompt.tokens);
}

ChoiceDelta Choice::accept(const TokenFrame& frame,
                           const std::vector<TokenLogprob>& prompt_logprobs) {
  CHECK(!finished_);
  ChoiceDelta out;
  if (!begun_ && (!frame.tokens.empty() || frame.finish != FinishReason::kNone)) {
    begun_ = true;
    begin(prompt_logprobs, &out);
  }
  if (!request_.answer.echo_only) {
    for (size_t k = 0; k < frame.tokens.size() && !finished_; ++k) accept_token(frame, k, &out);
  }
  if (frame.finish != FinishReason::kNone && !finished_) finish(frame, &out);
  return out;
}

void Choice::begin(const std::vector<TokenLogprob>& prompt_logprobs, ChoiceDelta* out) {
  out->text = prompt_.echo;
  const AnswerOptions& answer = request_.answer;
  if (!answer.echo || answer.top_logprobs < 0) {
    characters_ = count_characters(prompt_.echo);
    return;
  }
  std::optional<IncrementalDecoder> decoder;
  if (model_.tokenizer) decoder.emplace(*model_.tokenizer, answer.skip_special_tokens);
  const bool complete = prompt_logprobs.size() + 1 == prompt_.tokens.size();
  for (size_t i = 0; i < prompt_.tokens.size(); ++i) {
    TokenEntry entry{.logprob = {}, .text_offset = characters_, .known = i > 0 && complete};
    if (entry.known) entry.logprob = prompt_logprobs[i - 1];
    entry.logprob.token = prompt_.tokens[i];
    out->entries.push_back(std::move(entry));
    if (decoder) characters_ += count_characters(decoder->push(prompt_.tokens[i]));
  }
  characters_ = count_characters(prompt_.echo);
}

void Choice::accept_token(const TokenFrame& frame, size_t k, ChoiceDelta* out) {
  ++generated_;
  const int32_t token = frame.tokens[k];
  out->tokens.push_back(token);
  if (request_.answer.top_logprobs >= 0) {
    const bool known = frame.logprobs.size() == frame.tokens.size();
    TokenEntry entry{.logprob = {}, .text_offset = characters_, .known = known};
    if (known) entry.logprob = frame.logprobs[k];
    entry.logprob.token = token;
    out->entries.push_back(std::move(entry));
  }
  const bool stops = k + 1 == frame.tokens.size() && frame.finish == FinishReason::kStop;
  if (decoder_ && (!stops || request_.answer.include_stop_text)) add_text(decoder_->push(token), out);
}

void Choice::add_text(const std::string& text, ChoiceDelta* out) {
  characters_ += count_characters(text);
  out->text += matcher_.push(text, generated_ > request_.sampling.min_tokens);
  if (matcher_.matched() < 0) return;
  finished_ = true;
  out->finish_reason = "stop";
  out->stop_reason = request_.answer.stops[static_cast<size_t>(matcher_.matched())];
}

void Choice::finish(const TokenFrame& frame, ChoiceDelta* out) {
  if (decoder_ && !request_.answer.echo_only) {
    add_text(decoder_->finish(), out);
    if (finished_) return;
    out->text += matcher_.finish();
  }
  finished_ = true;
  const bool stopped = frame.finish == FinishReason::kStop && !request_.answer.echo_only;
  out->finish_reason = stopped ? "stop" : "length";
  if (!stopped || frame.tokens.empty()) return;
  const std::vector<int32_t>& eos = model_.eos_tokens;
  const int32_t last = frame.tokens.back();
  const bool is_eos = std::find(eos.begin(), eos.end(), last) != eos.end();
  if (!is_eos || request_.answer.ignore_eos) out->stop_reason = last;
}

}  // namespace skein
