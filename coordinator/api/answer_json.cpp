#include "coordinator/api/answer_json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace skein {
namespace {

constexpr float kLogprobMin = -9999;  // what minus infinity becomes, as in vLLM

void append_number(int64_t value, std::string* out) { *out += std::to_string(value); }

void append_logprob(float value, std::string* out) {
  if (!(value > kLogprobMin)) value = kLogprobMin;
  char text[32];
  const std::string_view digits(
      text, static_cast<size_t>(std::to_chars(text, text + sizeof text, value).ptr - text));
  *out += digits;
  if (digits.find_first_of(".e") == digits.npos) *out += ".0";
}

void append_ids(const std::vector<int32_t>& ids, std::string* out) {
  *out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) *out += ',';
    append_number(ids[i], out);
  }
  *out += ']';
}

void append_usage(const Usage& usage, std::string* out) {
  *out += "{\"prompt_tokens\":";
  append_number(usage.prompt_tokens, out);
  *out += ",\"completion_tokens\":";
  append_number(usage.completion_tokens, out);
  *out += ",\"total_tokens\":";
  append_number(usage.prompt_tokens + usage.completion_tokens, out);
  *out += ",\"prompt_tokens_details\":{\"cached_tokens\":";
  append_number(usage.cached_tokens, out);
  *out += "}}";
}

// Calls `fn` between commas for every element.
template <typename Items, typename Fn>
void append_array(const Items& items, std::string* out, Fn fn) {
  *out += '[';
  bool first = true;
  for (const auto& item : items) {
    if (!first) *out += ',';
    first = false;
    fn(item);
  }
  *out += ']';
}

}  // namespace

AnswerJson::AnswerJson(const ServedModel& model, const PreparedRequest& request, std::string id,
                       int64_t created)
    : model_(model),
      request_(request),
      options_(request.answer),
      id_(std::move(id)),
      created_(created) {}

std::string AnswerJson::open(bool streamed) const {
  const char* object = !options_.chat ? "text_completion"
                       : streamed     ? "chat.completion.chunk"
                                      : "chat.completion";
  std::string out = "{\"id\":\"" + id_ + "\",\"object\":\"" + object + "\",\"created\":" +
                    std::to_string(created_) + ",\"model\":";
  append_json_string(model_.name, &out);
  out += ",\"choices\":[";
  return out;
}

void AnswerJson::append_chunk_end(const Usage& usage, std::string* out) const {
  *out += ']';
  if (options_.include_usage) {
    *out += ",\"usage\":";
    if (options_.continuous_usage) {
      append_usage(usage, out);
    } else {
      *out += "null";
    }
  }
  *out += '}';
}

std::string AnswerJson::role_chunk(size_t index, const Usage& usage) const {
  std::string out = open(true);
  out += "{\"index\":" + std::to_string(index) + ",\"delta\":{\"role\":";
  append_json_string(options_.role, &out);
  out += ",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}";
  append_chunk_end(usage, &out);
  if (options_.return_token_ids) {
    out.back() = ',';
    out += "\"prompt_token_ids\":";
    append_ids(request_.prompts[0].tokens, &out);
    out += '}';
  }
  return out;
}

std::string AnswerJson::chunk(size_t index, const ChoiceDelta& delta, bool first,
                              const Usage& usage) const {
  std::string out = open(true);
  out += "{\"index\":" + std::to_string(index);
  out += options_.chat ? ",\"delta\":{\"content\":" : ",\"text\":";
  append_json_string(delta.text, &out);
  if (options_.chat) out += '}';
  append_logprobs(delta.entries, &out);
  append_end_of_choice(delta, &out);
  if (options_.return_token_ids && !options_.chat && first) {
    out += ",\"prompt_token_ids\":";
    append_ids(request_.prompts[index / static_cast<size_t>(request_.choices)].tokens, &out);
  }
  out += '}';
  append_chunk_end(usage, &out);
  return out;
}

void AnswerJson::append_end_of_choice(const ChoiceDelta& delta, std::string* out) const {
  *out += ",\"finish_reason\":";
  if (delta.finish_reason.empty()) {
    *out += "null";
  } else {
    append_json_string(delta.finish_reason, out);
  }
  *out += ",\"stop_reason\":" + delta.stop_reason.dump();
  if (options_.return_token_ids) {
    *out += ",\"token_ids\":";
    append_ids(delta.tokens, out);
  }
}

std::string AnswerJson::usage_chunk(const Usage& usage) const {
  std::string out = open(true) + "],\"usage\":";
  append_usage(usage, &out);
  out += '}';
  return out;
}

std::string AnswerJson::whole(const std::vector<ChoiceDelta>& choices,
                              const std::vector<std::vector<TokenLogprob>>& prompt_logprobs,
                              const Usage& usage) const {
  std::string out = open(false);
  for (size_t index = 0; index < choices.size(); ++index) {
    const ChoiceDelta& choice = choices[index];
    const size_t p = index / static_cast<size_t>(request_.choices);
    if (index > 0) out += ',';
    out += "{\"index\":" + std::to_string(index);
    if (options_.chat) {
      out += ",\"message\":{\"role\":";
      append_json_string(options_.role, &out);
      out += ",\"content\":";
      append_json_string(choice.text, &out);
      out += ",\"refusal\":null}";
    } else {
      out += ",\"text\":";
      append_json_string(choice.text, &out);
    }
    append_logprobs(choice.entries, &out);
    append_end_of_choice(choice, &out);
    if (!options_.chat && options_.return_token_ids) {
      out += ",\"prompt_token_ids\":";
      append_ids(request_.prompts[p].tokens, &out);
    }
    if (!options_.chat) append_prompt_logprobs(request_.prompts[p], prompt_logprobs[p], &out);
    out += '}';
  }
  out += "],\"usage\":";
  append_usage(usage, &out);
  if (options_.chat) {
    append_prompt_logprobs(request_.prompts[0], prompt_logprobs[0], &out);
    if (options_.return_token_ids) {
      out += ",\"prompt_token_ids\":";
      append_ids(request_.prompts[0].tokens, &out);
    }
  }
  out += '}';
  return out;
}

// ---- log-probabilities

std::string AnswerJson::token_text(int32_t token) const {
  if (options_.tokens_as_ids) return "token_id:" + std::to_string(token);
  const Tokenizer& tokenizer = *model_.tokenizer;
  return token >= 0 && token < tokenizer.size() ? tokenizer.token_bytes(token) : std::string();
}

void AnswerJson::append_token(int32_t token, std::string* out) const {
  append_json_string(token_text(token), out);
}

void AnswerJson::append_logprobs(const std::vector<TokenEntry>& entries, std::string* out) const {
  *out += ",\"logprobs\":";
  if (options_.top_logprobs < 0) {
    *out += "null";
  } else if (options_.chat) {
    append_chat_logprobs(entries, out);
  } else {
    append_completion_logprobs(entries, out);
  }
}

void AnswerJson::append_completion_logprobs(const std::vector<TokenEntry>& entries,
                                            std::string* out) const {
  *out += "{\"text_offset\":";
  append_array(entries, out, [&](const TokenEntry& entry) { append_number(entry.text_offset, out); });
  *out += ",\"token_logprobs\":";
  append_array(entries, out, [&](const TokenEntry& entry) {
    if (entry.known) return append_logprob(entry.logprob.logprob, out);
    *out += "null";
  });
  *out += ",\"tokens\":";
  append_array(entries, out, [&](const TokenEntry& entry) { append_token(entry.logprob.token, out); });
  *out += ",\"top_logprobs\":";
  append_array(entries, out, [&](const TokenEntry& entry) { append_top_logprobs(entry, out); });
  *out += '}';
}

// The token itself, then the likeliest ones. Tokens with the same text (incomplete characters, say) share a key, for
// which the likeliest stands.
void AnswerJson::append_top_logprobs(const TokenEntry& entry, std::string* out) const {
  if (!entry.known) {
    *out += "null";
    return;
  }
  std::vector<std::string> keys;
  *out += '{';
  const auto append = [&](int32_t token, float logprob) {
    std::string key;
    append_token(token, &key);
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) return;
    if (!keys.empty()) *out += ',';
    *out += key + ':';
    append_logprob(logprob, out);
    keys.push_back(std::move(key));
  };
  append(entry.logprob.token, entry.logprob.logprob);
  for (const auto& [token, logprob] : entry.logprob.top) append(token, logprob);
  *out += '}';
}

void AnswerJson::append_chat_logprobs(const std::vector<TokenEntry>& entries, std::string* out) const {
  *out += "{\"content\":";
  append_array(entries, out, [&](const TokenEntry& entry) {
    *out += '{';
    append_chat_token(entry.logprob.token, entry.logprob.logprob, out);
    *out += ",\"top_logprobs\":";
    append_array(entry.logprob.top, out, [&](const std::pair<int32_t, float>& top) {
      *out += '{';
      append_chat_token(top.first, top.second, out);
      *out += '}';
    });
    *out += '}';
  });
  *out += '}';
}

void AnswerJson::append_chat_token(int32_t token, float logprob, std::string* out) const {
  *out += "\"token\":";
  append_token(token, out);
  *out += ",\"logprob\":";
  append_logprob(logprob, out);
  *out += ",\"bytes\":";
  append_array(token_text(token), out,
               [&](char byte) { append_number(static_cast<unsigned char>(byte), out); });
}

void AnswerJson::append_prompt_logprobs(const Prompt& prompt,
                                        const std::vector<TokenLogprob>& logprobs,
                                        std::string* out) const {
  *out += ",\"prompt_logprobs\":";
  if (!options_.prompt_logprobs || logprobs.size() + 1 != prompt.tokens.size()) {
    *out += "null";
    return;
  }
  const auto append = [&](int32_t token, float logprob, int32_t rank) {
    *out += '"' + std::to_string(token) + "\":{\"logprob\":";
    append_logprob(logprob, out);
    *out += ",\"rank\":" + std::to_string(rank) + ",\"decoded_token\":";
    append_token(token, out);
    *out += '}';
  };
  *out += "[null";
  for (size_t i = 0; i < logprobs.size(); ++i) {
    const int32_t token = prompt.tokens[i + 1];
    *out += ",{";
    append(token, logprobs[i].logprob, logprobs[i].rank);
    int32_t rank = 0;
    for (const auto& [other, logprob] : logprobs[i].top) {
      ++rank;
      if (other == token) continue;
      *out += ',';
      append(other, logprob, rank);
    }
    *out += '}';
  }
  *out += ']';
}

}  // namespace skein
