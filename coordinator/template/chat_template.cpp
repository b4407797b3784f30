#include "coordinator/template/chat_template.h"

#include "coordinator/template/ast.h"
#include "coordinator/template/evaluator.h"
#include "coordinator/template/lexer.h"
#include "coordinator/template/parser.h"
#include "coordinator/template/run.h"
#include "coordinator/template/unicode.h"

namespace skein {

struct ChatTemplate::Program {
  TemplateLimits limits;
  jinja::SyntaxTree tree;
};

namespace {

using jinja::Run;
using jinja::Value;

Result<Value> text_value(Run& run, const std::string& text) {
  if (jinja::valid_utf8(text)) return Value::string(text);
  return run.text(jinja::repair_utf8(text));
}

// Texts are not copied: `json` outlives the rendering.
Result<Value> to_value(Run& run, const Json& json) {
  if (json.is_null()) return Value::none();
  if (json.is_bool()) return Value::boolean_of(json.as_bool());
  if (json.is_int()) return Value::integer_of(json.as_int());
  if (json.is_number()) return Value::real_of(json.as_double());
  if (json.is_string()) return text_value(run, json.as_string());
  const jinja::Nesting nesting(run);
  RETURN_IF_ERROR(nesting.status());
  if (json.is_array()) {
    std::vector<Value> items;
    items.reserve(json.as_array().size());
    for (const Json& item : json.as_array()) {
      ASSIGN_OR_RETURN(const Value value, to_value(run, item));
      items.push_back(value);
    }
    return run.sequence(jinja::Kind::kList, items);
  }
  jinja::DictBuilder dict(run);
  for (const auto& [name, member] : json.as_object()) {
    ASSIGN_OR_RETURN(const Value key, text_value(run, name));
    ASSIGN_OR_RETURN(const Value value, to_value(run, member));
    RETURN_IF_ERROR(dict.set(key, value));
  }
  return dict.finish();
}

// One value per symbol of the template; globals first, so that variables may hide them.
Result<std::vector<Value>> bind_variables(Run& run, const jinja::SyntaxTree& tree,
                                          const Json& variables) {
  std::vector<Value> values(static_cast<size_t>(tree.symbols.size()));
  for (int symbol = 0; symbol < tree.symbols.size(); ++symbol) {
    const std::string_view name = tree.symbols.name(symbol);
    if (const int global = jinja::find_global(name); global >= 0) {
      values[symbol] = Value::integer_of(global);
      values[symbol].kind = jinja::Kind::kFunction;
    }
    if (const Json* const given = variables.find(name); given != nullptr) {
      ASSIGN_OR_RETURN(values[symbol], to_value(run, *given));
    }
  }
  return values;
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::compile(std::string source, const TemplateLimits& limits) {
  if (source.size() > limits.source_bytes_max) {
    return invalid_argument("chat template: " + std::to_string(source.size()) +
                            " bytes are over the limit of " +
                            std::to_string(limits.source_bytes_max));
  }
  if (!jinja::valid_utf8(source)) {
    return invalid_argument("chat template: the text is not valid UTF-8");
  }
  auto program = std::make_unique<Program>();
  program->limits = limits;
  program->tree.source = jinja::normalize_newlines(source);
  if (Status status = jinja::parse(limits, &program->tree); !status.ok()) {
    return invalid_argument("chat template, " + status.message());
  }
  return ChatTemplate(std::move(program));
}

Result<std::string> ChatTemplate::render(const Json& variables) const {
  CHECK(variables.is_object());
  const jinja::SyntaxTree& tree = program_->tree;
  Run run(program_->limits);
  auto values = bind_variables(run, tree, variables);
  if (!values.ok()) return invalid_argument("chat template, " + values.status().message());
  auto text = jinja::Evaluator(tree, run, std::move(*values)).render();
  if (!text.ok()) return invalid_argument("chat template, " + text.status().message());
  return text;
}

}  // namespace skein
