#include "coordinator/api/prompts.h"

#include <algorithm>

namespace skein {
namespace {

void add_ids_prompt(Fields& fields, std::string_view name, const Json& ids, const ServedModel& model,
                    PreparedRequest* out) {
  std::optional<std::vector<int32_t>> tokens = read_token_ids(fields, name, ids, model);
  if (!tokens) return;
  if (tokens->empty()) return fields.fail(name, "`" + std::string(name) + "` is empty.");
  Prompt prompt{.tokens = std::move(*tokens), .echo = {}};
  if (out->answer.echo && model.tokenizer != nullptr) {
    prompt.echo = model.tokenizer->decode(prompt.tokens, out->answer.skip_special_tokens);
  }
  out->prompts.push_back(std::move(prompt));
}

}  // namespace

std::optional<std::vector<int32_t>> read_token_ids(Fields& fields, std::string_view name,
                                                   const Json& ids, const ServedModel& model) {
  std::vector<int32_t> tokens;
  tokens.reserve(ids.as_array().size());
  for (const Json& item : ids.as_array()) {
    const std::optional<int64_t> id = as_integer(item);
    if (!id || *id < 0 || *id >= model.vocabulary) {
      fields.fail(name, "`" + std::string(name) + "` must hold token ids from 0 to " +
                            std::to_string(model.vocabulary - 1) + "; element " +
                            std::to_string(tokens.size()) + " is " +
                            (item.is_number() ? item.dump() : std::string(item.type_name())) + ".");
      return std::nullopt;
    }
    tokens.push_back(static_cast<int32_t>(*id));
  }
  return tokens;
}

void add_text_prompt(Fields& fields, std::string_view param, std::string_view text,
                     bool add_special_tokens, const ServedModel& model, PreparedRequest* out) {
  if (text.empty()) return fields.fail(param, "`" + std::string(param) + "` is empty.");
  if (model.tokenizer == nullptr) {
    return fields.fail(param, "This model has no tokenizer; give prompts as token ids.");
  }
  Result<std::vector<int32_t>> tokens = model.tokenizer->encode(text, add_special_tokens);
  if (!tokens.ok()) return fields.fail(param, tokens.status().message());
  if (tokens->empty()) return fields.fail(param, "`" + std::string(param) + "` gives no tokens.");
  for (const int32_t id : *tokens) {
    if (id < model.vocabulary) continue;
    return fields.fail(param, "The text has a token that the model has no embedding for: id " +
                                  std::to_string(id) + ".");
  }
  out->prompts.push_back({.tokens = std::move(*tokens),
                          .echo = out->answer.echo ? std::string(text) : std::string()});
}

void read_prompts(Fields& fields, std::string_view name, bool add_special_tokens,
                  const ServedModel& model, const ApiLimits& limits, PreparedRequest* out) {
  const std::string quoted = "`" + std::string(name) + "`";
  const Json* value = fields.find(name);
  if (value == nullptr) return fields.fail(name, quoted + " is missing.");
  if (value->is_string()) {
    return add_text_prompt(fields, name, value->as_string(), add_special_tokens, model, out);
  }
  if (!value->is_array()) {
    return fields.fail(name, quoted + " must be a string, token ids, or an array of either.");
  }
  const Json::Array& items = value->as_array();
  if (items.empty()) return fields.fail(name, quoted + " is empty.");
  if (items[0].is_number()) return add_ids_prompt(fields, name, *value, model, out);
  if (items.size() > limits.prompts_max) {
    return fields.fail(name, quoted + " has " + std::to_string(items.size()) +
                                 " prompts; the limit is " + std::to_string(limits.prompts_max) + ".");
  }
  for (const Json& item : items) {
    if (item.is_string()) {
      add_text_prompt(fields, name, item.as_string(), add_special_tokens, model, out);
    } else if (item.is_array()) {
      add_ids_prompt(fields, name, item, model, out);
    } else {
      fields.fail(name, quoted + " must be a string, token ids, or an array of either.");
    }
    if (fields.error()) return;
  }
}

void truncate_prompts(Fields& fields, const ServedModel& model, int64_t answer_tokens,
                      PreparedRequest* out) {
  const std::optional<int64_t> asked = fields.integer("truncate_prompt_tokens", -1, model.context_max);
  if (!asked) return;
  if (*asked == 0) {
    return fields.fail("truncate_prompt_tokens", "`truncate_prompt_tokens` must be -1 or at least 1.");
  }
  const int64_t room = model.context_max - std::max<int64_t>(1, answer_tokens);
  const auto keep = static_cast<size_t>(*asked == -1 ? std::max<int64_t>(1, room) : *asked);
  for (Prompt& prompt : out->prompts) {
    std::vector<int32_t>& tokens = prompt.tokens;
    if (tokens.size() <= keep) continue;
    tokens.erase(tokens.begin(), tokens.end() - static_cast<ptrdiff_t>(keep));
    if (out->answer.echo && model.tokenizer != nullptr) {
      prompt.echo = model.tokenizer->decode(tokens, out->answer.skip_special_tokens);
    }
  }
}

}  // namespace skein
