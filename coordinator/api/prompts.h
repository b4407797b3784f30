#pragma once

#include "coordinator/api/fields.h"
#include "coordinator/api/prepared_request.h"

namespace skein {

// Appends the prompts that member `name` holds: a text, token ids, or a list of either.
void read_prompts(Fields& fields, std::string_view name, bool add_special_tokens,
                  const ServedModel& model, const ApiLimits& limits, PreparedRequest* out);
// One text as a prompt; errors name `param`.
void add_text_prompt(Fields& fields, std::string_view param, std::string_view text,
                     bool add_special_tokens, const ServedModel& model, PreparedRequest* out);
// Keeps the last truncate_prompt_tokens ids of every prompt where that is given (-1: what leaves room for the answer).
void truncate_prompts(Fields& fields, const ServedModel& model, int64_t answer_tokens,
                      PreparedRequest* out);
// One array of token ids within the vocabulary.
std::optional<std::vector<int32_t>> read_token_ids(Fields& fields, std::string_view name,
                                                   const Json& ids, const ServedModel& model);

}  // namespace skein
