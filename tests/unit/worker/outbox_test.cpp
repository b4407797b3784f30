#include "worker/outbox.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

TokenFrame tokens(uint64_t request, int32_t first, std::vector<int32_t> ids, int32_t choice = 0,
                  FinishReason finish = FinishReason::kNone) {
  TokenFrame frame;
  frame.request = request;
  frame.epoch = 1;
  frame.choice = choice;
  frame.first_index = first;
  frame.tokens = std::move(ids);
  frame.finish = finish;
  return frame;
}

TEST(Outbox, JoinsWhatWaitsOfAChoice) {
  Outbox outbox;
  EXPECT_FALSE(outbox.pop());
  outbox.push(tokens(1, 0, {10}));
  outbox.push(tokens(2, 0, {20}));
  outbox.push(tokens(1, 1, {11}));
  outbox.push(tokens(1, 0, {30}, 1));
  outbox.push(tokens(1, 2, {12}, 0, FinishReason::kLength));
  const auto first = outbox.pop();
  EXPECT_EQ(first->request, 1u);
  EXPECT_EQ(first->choice, 0);
  EXPECT_EQ(first->tokens, (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(first->finish, FinishReason::kLength);
  EXPECT_EQ(outbox.pop()->tokens, std::vector<int32_t>{20});
  EXPECT_EQ(outbox.pop()->choice, 1);
  EXPECT_FALSE(outbox.pop());
}

TEST(Outbox, NothingIsJoinedToWhatHasLeft) {
  Outbox outbox;
  outbox.push(tokens(1, 0, {10}));
  outbox.push(tokens(2, 0, {20}));
  EXPECT_EQ(outbox.pop()->tokens, std::vector<int32_t>{10});
  outbox.push(tokens(1, 1, {11}));
  outbox.push(tokens(1, 2, {12}));
  EXPECT_EQ(outbox.pop()->request, 2u);
  const auto last = outbox.pop();
  EXPECT_EQ(last->first_index, 1);
  EXPECT_EQ(last->tokens, (std::vector<int32_t>{11, 12}));
}

TEST(Outbox, TokensComeAheadOfAnError) {
  Outbox outbox;
  outbox.push(tokens(1, 0, {10}));
  outbox.push(tokens(1, 1, {}, 0, FinishReason::kError));
  EXPECT_EQ(outbox.pop()->finish, FinishReason::kNone);
  EXPECT_EQ(outbox.pop()->finish, FinishReason::kError);
}

TEST(Outbox, KeepsLogProbabilitiesWithTheirTokens) {
  Outbox outbox;
  for (int32_t i = 0; i < 3000; ++i) {
    TokenFrame frame = tokens(1, i, {i});
    frame.logprobs.push_back({.token = i, .logprob = -1, .rank = 1, .top = {}});
    outbox.push(std::move(frame));
  }
  int32_t next = 0;
  int frames = 0;
  for (std::optional<TokenFrame> frame; (frame = outbox.pop()); ++frames) {
    EXPECT_EQ(frame->first_index, next);
    ASSERT_EQ(frame->logprobs.size(), frame->tokens.size());
    for (const TokenLogprob& logprob : frame->logprobs) EXPECT_EQ(logprob.token, next++);
  }
  EXPECT_EQ(next, 3000);
  EXPECT_EQ(frames, 3) << "bounded, and joined";
}

}  // namespace
}  // namespace skein
