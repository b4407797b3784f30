#pragma once

#include "coordinator/api/fields.h"
#include "coordinator/api/prepared_request.h"

namespace skein {

// max_tokens as asked for, before the prompt's length is known.
struct TokenBudget {
  std::optional<int64_t> asked;
  std::string param = "max_tokens";
  std::optional<int64_t> otherwise;  // where nothing is asked for; nothing: what is left of the context
};

// Whether the request names another model than the one served: 404.
void check_model(Fields& fields, const ServedModel& model);
// Fields that would change the output and that nothing here implements.
void refuse_unsupported(Fields& fields);
// Everything that completions and chats share, but for prompts and log-probabilities.
void read_shared_fields(Fields& fields, const ServedModel& model, const ApiLimits& limits,
                        PreparedRequest* out);
TokenBudget read_token_budget(Fields& fields, bool zero_allowed);
// Gives every prompt its max_tokens. Requires: prompts and sampling.min_tokens are set.
void apply_budget(Fields& fields, std::string_view prompt_param, const TokenBudget& budget,
                  const ServedModel& model, const ApiLimits& limits, PreparedRequest* out);

}  // namespace skein
