#include "coordinator/api/chat_prompt.h"
#include "coordinator/api/prompts.h"
#include "coordinator/api/sampling_fields.h"

namespace skein {
namespace {

Json ids_json(const std::vector<int32_t>& ids) {
  Json::Array out;
  out.reserve(ids.size());
  for (const int32_t id : ids) out.emplace_back(id);
  return out;
}

Json token_texts(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  Json::Array out;
  out.reserve(ids.size());
  for (const int32_t id : ids) {
    out.emplace_back(id < tokenizer.size() ? tokenizer.token_bytes(id) : std::string());
  }
  return out;
}

}  // namespace

std::optional<HttpError> answer_tokenize(const Json& body, const ServedModel& model,
                                         const ApiLimits& limits, std::string* out) {
  Fields fields(body);
  check_model(fields, model);
  const bool chat = fields.find("messages") != nullptr;
  const bool special = fields.boolean("add_special_tokens", !chat);
  const bool texts = fields.boolean("return_token_strs", false);
  if (fields.error()) return fields.error();
  std::string text;
  if (chat) {
    const std::optional<ChatPrompt> prompt = render_chat(fields, model, limits);
    if (!prompt) return fields.error();
    text = prompt->text;
  } else {
    const std::optional<std::string> prompt = fields.string("prompt", limits.json_bytes_max);
    if (!prompt) fields.fail("prompt", "`prompt` is missing; give it or `messages`.");
    if (fields.error()) return fields.error();
    text = *prompt;
  }
  if (model.tokenizer == nullptr) {
    return HttpError{.message = "This model has no tokenizer.", .param = "prompt"};
  }
  const Result<std::vector<int32_t>> tokens = model.tokenizer->encode(text, special);
  if (!tokens.ok()) return HttpError{.message = tokens.status().message(), .param = "prompt"};
  Json answer(Json::Object{{"count", static_cast<int64_t>((*tokens).size())},
                           {"max_model_len", model.context_max},
                           {"tokens", ids_json(*tokens)}});
  answer.set("token_strs", texts ? token_texts(*tokens, *model.tokenizer) : Json());
  *out = answer.dump();
  return std::nullopt;
}

std::optional<HttpError> answer_detokenize(const Json& body, const ServedModel& model,
                                           const ApiLimits& limits, std::string* out) {
  Fields fields(body);
  check_model(fields, model);
  const Json* ids = fields.array("tokens", limits.json_values_max);
  if (ids == nullptr) fields.fail("tokens", "`tokens` is missing.");
  if (fields.error()) return fields.error();
  const std::optional<std::vector<int32_t>> tokens = read_token_ids(fields, "tokens", *ids, model);
  if (!tokens) return fields.error();
  if (model.tokenizer == nullptr) {
    return HttpError{.message = "This model has no tokenizer.", .param = "tokens"};
  }
  *out = Json(Json::Object{{"prompt", model.tokenizer->decode(*tokens, false)}}).dump();
  return std::nullopt;
}

}  // namespace skein
