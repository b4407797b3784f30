#include "worker/outbox.h"

#include <algorithm>
#include <iterator>

namespace skein {
namespace {

constexpr size_t kJoinedTokensMax = 1024;  // far from the largest frame, with all their log-probabilities

template <typename T>
void move_append(std::vector<T>* to, std::vector<T>* from) {
  to->insert(to->end(), std::make_move_iterator(from->begin()), std::make_move_iterator(from->end()));
}

bool follows(const TokenFrame& frame, const TokenFrame& next) {
  // An error says nothing of the tokens in its own frame: they go ahead of it.
  const bool plain = next.finish == FinishReason::kNone || next.finish == FinishReason::kStop ||
                     next.finish == FinishReason::kLength;
  return plain && frame.finish == FinishReason::kNone && frame.epoch == next.epoch &&
         frame.first_index + static_cast<int32_t>(frame.tokens.size()) == next.first_index &&
         frame.tokens.size() + next.tokens.size() <= kJoinedTokensMax &&
         frame.logprobs.empty() == next.logprobs.empty() && next.prompt_logprobs.empty();
}

void join(TokenFrame* frame, TokenFrame next) {
  move_append(&frame->tokens, &next.tokens);
  move_append(&frame->logprobs, &next.logprobs);
  frame->cached_tokens = std::max(frame->cached_tokens, next.cached_tokens);
  frame->finish = next.finish;
}

}  // namespace

void Outbox::push(TokenFrame frame) {
  std::lock_guard lock(mutex_);
  const auto [newest, first] = newest_.try_emplace({frame.request, frame.choice}, 0);
  if (!first) {
    TokenFrame& waiting = frames_[newest->second - popped_];
    if (follows(waiting, frame)) return join(&waiting, std::move(frame));
  }
  newest->second = popped_ + frames_.size();
  frames_.push_back(std::move(frame));
}

std::optional<TokenFrame> Outbox::pop() {
  std::lock_guard lock(mutex_);
  if (frames_.empty()) return std::nullopt;
  std::optional<TokenFrame> frame(std::move(frames_.front()));
  frames_.pop_front();
  const auto newest = newest_.find({frame->request, frame->choice});
  if (newest->second == popped_) newest_.erase(newest);
  ++popped_;
  return frame;
}

}  // namespace skein
