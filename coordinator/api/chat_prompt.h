#pragma once

#include "coordinator/api/fields.h"
#include "coordinator/api/prepared_request.h"

namespace skein {

// A chat as the model's template renders it.
struct ChatPrompt {
  std::string text;
  std::string last_role;
  std::string last_content;
  bool add_generation_prompt = true;
};

// Reads messages, add_generation_prompt, continue_final_message and chat_template_kwargs.
std::optional<ChatPrompt> render_chat(Fields& fields, const ServedModel& model, const ApiLimits& limits);

}  // namespace skein
