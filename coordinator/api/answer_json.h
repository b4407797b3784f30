#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/api/choice.h"
#include "coordinator/api/prepared_request.h"

namespace skein {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
};

// The JSON of one request's answer, streamed or whole, as OpenAI and vLLM shape it. Every text in it is whole UTF-8.
// Single-owner; `model` and `request` must outlive it.
class AnswerJson {
 public:
  AnswerJson(const ServedModel& model, const PreparedRequest& request, std::string id,
             int64_t created);

  // A chat choice's first chunk: the role and no text yet.
  std::string role_chunk(size_t index, const Usage& usage) const;
  // `first`: the choice's first chunk with tokens, which carries the prompt's ids where they are asked for.
  std::string chunk(size_t index, const ChoiceDelta& delta, bool first, const Usage& usage) const;
  std::string usage_chunk(const Usage& usage) const;

  // `choices` in the order of their indices; `prompt_logprobs` one per prompt.
  std::string whole(const std::vector<ChoiceDelta>& choices,
                    const std::vector<std::vector<TokenLogprob>>& prompt_logprobs,
                    const Usage& usage) const;

 private:
  std::string open(bool streamed) const;
  void append_chunk_end(const Usage& usage, std::string* out) const;
  void append_token(int32_t token, std::string* out) const;
  void append_logprobs(const std::vector<TokenEntry>& entries, std::string* out) const;
  void append_completion_logprobs(const std::vector<TokenEntry>& entries, std::string* out) const;
  void append_chat_logprobs(const std::vector<TokenEntry>& entries, std::string* out) const;
  void append_chat_token(int32_t token, float logprob, std::string* out) const;
  void append_top_logprobs(const TokenEntry& entry, std::string* out) const;
  void append_prompt_logprobs(const Prompt& prompt, const std::vector<TokenLogprob>& logprobs,
                              std::string* out) const;
  void append_end_of_choice(const ChoiceDelta& delta, std::string* out) const;
  std::string token_text(int32_t token) const;

  const ServedModel& model_;
  const PreparedRequest& request_;
  const AnswerOptions& options_;
  const std::string id_;
  const int64_t created_;
};

}  // namespace skein
