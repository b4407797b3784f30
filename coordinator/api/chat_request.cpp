#include "coordinator/api/chat_prompt.h"
#include "coordinator/api/prompts.h"
#include "coordinator/api/sampling_fields.h"

namespace skein {
namespace {

void read_logprobs(Fields& fields, const ApiLimits& limits, PreparedRequest* out) {
  const bool wanted = fields.boolean("logprobs", false);
  const auto top = fields.integer("top_logprobs", 0, limits.logprobs_max);
  if (top.value_or(0) > 0 && !wanted) {
    return fields.fail("top_logprobs", "`top_logprobs` needs `logprobs` to be true.");
  }
  if (!wanted) return;
  out->answer.top_logprobs = static_cast<int>(top.value_or(0));
  out->sampling.top_logprobs = out->answer.top_logprobs;
}

}  // namespace

std::optional<HttpError> prepare_chat(const Json& body, const ServedModel& model,
                                      const ApiLimits& limits, PreparedRequest* out) {
  Fields fields(body);
  check_model(fields, model);
  refuse_unsupported(fields);
  out->answer.chat = true;
  read_shared_fields(fields, model, limits, out);
  read_logprobs(fields, limits, out);
  const bool echo = fields.boolean("echo", false);
  const TokenBudget budget = read_token_budget(fields, false);
  const bool special = fields.boolean("add_special_tokens", false);
  if (fields.error()) return fields.error();
  const std::optional<ChatPrompt> chat = render_chat(fields, model, limits);
  if (!chat) return fields.error();
  add_text_prompt(fields, "messages", chat->text, special, model, out);
  if (fields.error()) return fields.error();
  if (!chat->add_generation_prompt) out->answer.role = chat->last_role;
  if (echo && chat->last_role == out->answer.role) out->prompts[0].echo = chat->last_content;
  truncate_prompts(fields, model, budget.asked.value_or(0), out);
  apply_budget(fields, "messages", budget, model, limits, out);
  return fields.error();
}

}  // namespace skein
