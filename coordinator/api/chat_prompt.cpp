#include "coordinator/api/chat_prompt.h"

#include <algorithm>
#include <array>

namespace skein {
namespace {

constexpr size_t kRoleBytesMax = 64;

std::string at(size_t message, const char* member) {
  return "messages[" + std::to_string(message) + "]." + member;
}

// Text parts joined by line feeds, as in vLLM; nothing after an error.
std::optional<std::string> read_parts(Fields& fields, const std::string& where, const Json& parts) {
  std::string text;
  bool first = true;
  for (const Json& part : parts.as_array()) {
    const Json* type = part.find("type");
    const Json* content = part.find("text");
    if (type == nullptr || !type->is_string()) {
      fields.fail(where, "`" + where + "` must be a string or an array of parts with a type.");
      return std::nullopt;
    }
    if (type->as_string() != "text") {
      fields.fail(where, "`" + where + "` has a part of type \"" + type->as_string().substr(0, 64) +
                             "\"; this model takes text only.");
      return std::nullopt;
    }
    if (content == nullptr || !content->is_string()) {
      fields.fail(where, "`" + where + "` has a part without text.");
      return std::nullopt;
    }
    if (!std::exchange(first, false)) text += '\n';
    text += content->as_string();
  }
  return text;
}

// Tool calls reach templates with their arguments as objects.
std::optional<Json> read_tool_calls(Fields& fields, const std::string& where, const Json& calls) {
  if (!calls.is_array()) {
    fields.fail(where, "`" + where + "` must be an array.");
    return std::nullopt;
  }
  Json copy = calls;
  for (Json& call : copy.as_array()) {
    const Json* function = call.find("function");
    const Json* arguments = function == nullptr ? nullptr : function->find("arguments");
    if (arguments == nullptr || !arguments->is_string()) continue;
    Result<Json> parsed = parse_json(arguments->as_string().empty() ? "{}" : arguments->as_string());
    if (!parsed.ok()) {
      fields.fail(where, "`" + where + "` has arguments that are no JSON.");
      return std::nullopt;
    }
    Json changed = *function;
    changed.set("arguments", std::move(parsed).value());
    call.set("function", std::move(changed));
  }
  return copy;
}

std::optional<Json> read_content(Fields& fields, size_t index, const Json& message, bool may_lack) {
  const std::string where = at(index, "content");
  const Json* content = message.find("content");
  if (content == nullptr || content->is_null()) {
    if (may_lack) return Json();
    fields.fail(where, "`" + where + "` is missing.");
    return std::nullopt;
  }
  if (content->is_string()) return *content;
  if (!content->is_array()) {
    fields.fail(where, "`" + where + "` must be a string or an array of parts.");
    return std::nullopt;
  }
  std::optional<std::string> text = read_parts(fields, where, *content);
  if (!text) return std::nullopt;
  return Json(std::move(*text));
}

std::optional<Json> read_message(Fields& fields, size_t index, const Json& message) {
  const Json* role = message.find("role");
  if (role == nullptr || !role->is_string() || role->as_string().empty() ||
      role->as_string().size() > kRoleBytesMax) {
    fields.fail(at(index, "role"), "`" + at(index, "role") +
                                       "` must be a role such as \"system\", \"user\" or \"assistant\".");
    return std::nullopt;
  }
  const Json* calls = message.find("tool_calls");
  if (calls != nullptr && calls->is_null()) calls = nullptr;
  const bool may_lack = *role == Json("assistant") && calls != nullptr;
  std::optional<Json> content = read_content(fields, index, message, may_lack);
  if (!content) return std::nullopt;
  Json out(Json::Object{{"role", *role}, {"content", std::move(*content)}});
  for (const char* name : {"name", "tool_call_id", "reasoning_content"}) {
    const Json* value = message.find(name);
    if (value == nullptr || value->is_null()) continue;
    if (!value->is_string()) {
      fields.fail(at(index, name), "`" + at(index, name) + "` must be a string.");
      return std::nullopt;
    }
    out.set(name, *value);
  }
  if (calls != nullptr) {
    std::optional<Json> read = read_tool_calls(fields, at(index, "tool_calls"), *calls);
    if (!read) return std::nullopt;
    out.set("tool_calls", std::move(*read));
  }
  return out;
}

std::optional<Json> read_messages(Fields& fields, const ApiLimits& limits) {
  const Json* messages = fields.array("messages", limits.messages_max);
  if (messages == nullptr || messages->as_array().empty()) {
    fields.fail("messages", "`messages` must be an array of at least one message.");
    return std::nullopt;
  }
  Json out = Json::array();
  for (const Json& message : messages->as_array()) {
    std::optional<Json> read = read_message(fields, out.as_array().size(), message);
    if (!read) return std::nullopt;
    out.push_back(std::move(*read));
  }
  return out;
}

void add_template_variables(Fields& fields, const ServedModel& model, Json* variables) {
  constexpr std::array<std::string_view, 7> kOurs = {
      "messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
      "bos_token", "eos_token"};
  variables->set("tools", nullptr);
  const Json* documents = fields.array("documents", 4096);
  variables->set("documents", documents == nullptr ? Json() : *documents);
  variables->set("bos_token", model.bos_token);
  variables->set("eos_token", model.eos_token);
  if (const auto effort = fields.string("reasoning_effort", kRoleBytesMax)) {
    variables->set("reasoning_effort", *effort);
  }
  const Json* extra = fields.object("chat_template_kwargs");
  if (extra == nullptr) return;
  if (extra->as_object().size() > 64) {
    return fields.fail("chat_template_kwargs", "`chat_template_kwargs` has more than 64 entries.");
  }
  for (const auto& [name, value] : extra->as_object()) {
    if (std::find(kOurs.begin(), kOurs.end(), name) != kOurs.end()) {
      return fields.fail("chat_template_kwargs",
                         "`chat_template_kwargs` cannot set `" + name + "`.");
    }
    variables->set(name, value);
  }
}

std::string_view strip(std::string_view text, bool at_end) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == text.npos) return {};
  text.remove_prefix(first);
  if (at_end) text = text.substr(0, text.find_last_not_of(kSpace) + 1);
  return text;
}

// Cuts everything that the template puts after the last message's content, as transformers does.
bool cut_after(std::string_view content, std::string* text) {
  const std::string_view stripped = strip(content, true);
  const size_t where = text->rfind(stripped);
  if (where == text->npos) return false;
  const std::string_view kept = strip(content, false);  // trailing space, if the template keeps it
  const bool keeps = std::string_view(*text).substr(where).starts_with(kept);
  text->resize(where + (keeps ? kept.size() : stripped.size()));
  return true;
}

}  // namespace

std::optional<ChatPrompt> render_chat(Fields& fields, const ServedModel& model,
                                      const ApiLimits& limits) {
  const bool go_on = fields.boolean("continue_final_message", false);
  ChatPrompt chat{.text = {}, .last_role = {}, .last_content = {}};
  chat.add_generation_prompt = fields.boolean("add_generation_prompt", !go_on);
  if (go_on && chat.add_generation_prompt) {
    fields.fail("continue_final_message",
                "`continue_final_message` and `add_generation_prompt` exclude each other.");
  }
  std::optional<Json> messages = read_messages(fields, limits);
  if (!messages) return std::nullopt;
  const Json& last = messages->as_array().back();
  chat.last_role = last.find("role")->as_string();
  if (last.find("content")->is_string()) chat.last_content = last.find("content")->as_string();
  Json variables(Json::Object{{"messages", std::move(*messages)},
                              {"add_generation_prompt", chat.add_generation_prompt}});
  add_template_variables(fields, model, &variables);
  if (fields.error()) return std::nullopt;
  if (!model.chat_template) {
    fields.fail("messages", "This model has no chat template; use /v1/completions, or start the "
                            "server with --chat-template.");
    return std::nullopt;
  }
  Result<std::string> text = model.chat_template->render(variables);
  if (!text.ok()) {
    fields.fail("messages", "The chat template refused the messages: " + text.status().message());
    return std::nullopt;
  }
  chat.text = std::move(*text);
  if (go_on && !cut_after(chat.last_content, &chat.text)) {
    fields.fail("continue_final_message",
                "The final message does not occur in what the chat template made of it.");
    return std::nullopt;
  }
  return chat;
}

}  // namespace skein
