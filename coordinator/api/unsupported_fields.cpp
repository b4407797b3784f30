#include <array>

#include "coordinator/api/sampling_fields.h"

namespace skein {
namespace {

// Whether a value asks for nothing: then the field is as good as absent.
bool is_empty(const Json& value) {
  if (value.is_bool()) return !value.as_bool();
  if (value.is_string()) return value.as_string().empty();
  if (value.is_array()) return value.as_array().empty();
  if (value.is_object()) return value.as_object().empty();
  return false;
}

bool is_only_text(const Json& value) {
  if (!value.is_array()) return false;
  for (const Json& item : value.as_array()) {
    if (item != Json("text")) return false;
  }
  return true;
}

bool is_text_format(const Json& value) {
  const Json* type = value.find("type");
  return type != nullptr && *type == Json("text");
}

bool is_none(const Json& value) { return value == Json("none"); }

struct Unsupported {
  std::string_view name;
  bool (*harmless)(const Json& value);
};

constexpr auto kUnsupported = std::to_array<Unsupported>({
    {"tools", is_empty},
    {"tool_choice", is_none},
    {"functions", is_empty},
    {"function_call", is_none},
    {"response_format", is_text_format},
    {"structured_outputs", is_empty},
    {"structural_tag", is_empty},
    {"guided_json", is_empty},
    {"guided_regex", is_empty},
    {"guided_choice", is_empty},
    {"guided_grammar", is_empty},
    {"guided_whitespace_pattern", is_empty},
    {"use_beam_search", is_empty},
    {"allowed_token_ids", is_empty},
    {"bad_words", is_empty},
    {"logits_processors", is_empty},
    {"modalities", is_only_text},
    {"audio", is_empty},
    {"prompt_embeds", is_empty},
    {"suffix", is_empty},
    {"web_search_options", is_empty},
    {"chat_template", is_empty},
    {"mm_processor_kwargs", is_empty},
    {"media_io_kwargs", is_empty},
    {"kv_transfer_params", is_empty},
    {"vllm_xargs", is_empty},
    {"thinking_token_budget", is_empty},
});

}  // namespace

void refuse_unsupported(Fields& fields) {
  for (const Unsupported& field : kUnsupported) {
    const Json* value = fields.find(field.name);
    if (value == nullptr || field.harmless(*value)) continue;
    fields.fail(field.name, "`" + std::string(field.name) + "` is not supported by this server.",
                "unsupported_parameter");
  }
}

}  // namespace skein
