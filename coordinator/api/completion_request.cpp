#include "coordinator/api/prompts.h"
#include "coordinator/api/sampling_fields.h"

namespace skein {
namespace {

constexpr int64_t kMaxTokensOtherwise = 16;  // OpenAI's default for completions

void read_logprobs(Fields& fields, const ApiLimits& limits, PreparedRequest* out) {
  const auto logprobs = fields.integer("logprobs", 0, limits.logprobs_max);
  if (!logprobs) return;
  out->answer.top_logprobs = static_cast<int>(*logprobs);
  out->sampling.top_logprobs = out->answer.top_logprobs;
  if (out->answer.echo && !out->answer.prompt_logprobs) {
    out->sampling.prompt_logprobs = out->answer.top_logprobs;
  }
}

}  // namespace

std::optional<HttpError> prepare_completion(const Json& body, const ServedModel& model,
                                            const ApiLimits& limits, PreparedRequest* out) {
  Fields fields(body);
  check_model(fields, model);
  refuse_unsupported(fields);
  out->answer.echo = fields.boolean("echo", false);
  read_shared_fields(fields, model, limits, out);
  read_logprobs(fields, limits, out);
  TokenBudget budget = read_token_budget(fields, out->answer.echo);
  budget.otherwise = kMaxTokensOtherwise;
  out->answer.echo_only = budget.asked == 0;
  const bool special = fields.boolean("add_special_tokens", true);
  if (fields.error()) return fields.error();
  read_prompts(fields, "prompt", special, model, limits, out);
  if (fields.error()) return fields.error();
  truncate_prompts(fields, model, budget.asked.value_or(0), out);
  apply_budget(fields, "prompt", budget, model, limits, out);
  return fields.error();
}

}  // namespace skein
