#include "coordinator/template/evaluator.h"

#include <algorithm>

#include "coordinator/template/for_loop.h"
#include "coordinator/template/text.h"

namespace skein::jinja {

const Value* Scope::find(int symbol) const {
  for (const auto& [known, value] : variables) {
    if (known == symbol) return &value;
  }
  return nullptr;
}

void Scope::set(int symbol, const Value& value) {
  for (auto& [known, old] : variables) {
    if (known != symbol) continue;
    old = value;
    return;
  }
  variables.emplace_back(symbol, value);
}

Evaluator::Evaluator(const SyntaxTree& tree, Run& run, std::vector<Value> variables)
    : tree_(tree), run_(run), variables_(std::move(variables)) {}

Result<std::string> Evaluator::render() {
  std::string out;
  out_ = &out;
  RETURN_IF_ERROR(exec_frame(tree_.frame).status());
  return out;
}

Status Evaluator::write(std::string_view text) {
  RETURN_IF_ERROR(run_.charge_bytes(text.size()));
  // Each capture counts again, so that nested ones cannot add up.
  RETURN_IF_ERROR(run_.reserve(text.size()));
  if (text.size() > run_.limits().output_bytes_max - out_->size()) {
    return run_.error("the output is longer than " +
                      std::to_string(run_.limits().output_bytes_max) + " bytes");
  }
  *out_ += text;
  return {};
}

Result<Evaluator::Flow> Evaluator::exec(const Body& body) {
  for (const Stmt& stmt : body) {
    ASSIGN_OR_RETURN(const Flow flow, exec(stmt));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

void Evaluator::clear_unset(const Frame& frame) {
  for (const int symbol : frame.unset) {
    scope_->set(symbol, Value::undefined_variable(tree_.symbols.name(symbol)));
  }
}

Result<Evaluator::Flow> Evaluator::exec_frame(const Frame& frame) {
  const Block block(*this);
  clear_unset(frame);
  return exec(frame.body);
}

Result<Evaluator::Flow> Evaluator::exec(const Stmt& stmt) {
  run_.at(stmt.line);
  RETURN_IF_ERROR(run_.charge(1));
  switch (stmt.kind) {
    case Stmt::Kind::kText: RETURN_IF_ERROR(write(stmt.text)); return Flow::kNext;
    case Stmt::Kind::kPrint: RETURN_IF_ERROR(exec_print(stmt)); return Flow::kNext;
    case Stmt::Kind::kSet: RETURN_IF_ERROR(exec_set(stmt)); return Flow::kNext;
    case Stmt::Kind::kBreak: return Flow::kBreak;
    case Stmt::Kind::kContinue: return Flow::kContinue;
    case Stmt::Kind::kMacro: {
      ASSIGN_OR_RETURN(const Value macro, make_macro(*stmt.macro));
      scope_->set(stmt.symbol, macro);
      return Flow::kNext;
    }
    case Stmt::Kind::kIf:
    case Stmt::Kind::kFor:
    case Stmt::Kind::kSetBlock:
    case Stmt::Kind::kCall:
    case Stmt::Kind::kFilter:
    case Stmt::Kind::kWith:
    case Stmt::Kind::kScope: return exec_nested(stmt);
  }
  return Flow::kNext;
}

Result<Evaluator::Flow> Evaluator::exec_nested(const Stmt& stmt) {
  const Nesting nesting(run_);
  RETURN_IF_ERROR(nesting.status());
  switch (stmt.kind) {
    case Stmt::Kind::kIf: return exec_if(stmt);
    case Stmt::Kind::kFor: return exec_for(stmt);
    case Stmt::Kind::kSetBlock: return exec_set_block(stmt);
    case Stmt::Kind::kFilter: return exec_filter_block(stmt);
    case Stmt::Kind::kWith: return exec_with(stmt);
    case Stmt::Kind::kScope: return exec_frame(stmt.frames[0]);
    case Stmt::Kind::kCall: RETURN_IF_ERROR(exec_call_block(stmt)); return Flow::kNext;
    default: return Flow::kNext;
  }
}

Status Evaluator::exec_print(const Stmt& stmt) {
  ASSIGN_OR_RETURN(const Value value, eval(*stmt.value));
  run_.at(stmt.line);
  ASSIGN_OR_RETURN(const Value text, to_text(run_, value));
  return write(text.text());
}

Status Evaluator::exec_set(const Stmt& stmt) {
  ASSIGN_OR_RETURN(const Value value, eval(*stmt.value));
  run_.at(stmt.line);
  return assign(*stmt.target, value);
}

Result<Evaluator::Flow> Evaluator::exec_if(const Stmt& stmt) {
  for (size_t i = 0; i < stmt.conditions.size(); ++i) {
    ASSIGN_OR_RETURN(const Value condition, eval(*stmt.conditions[i]));
    if (truth(condition)) return exec(stmt.bodies[i]);
  }
  if (stmt.bodies.size() > stmt.conditions.size()) return exec(stmt.bodies.back());
  return Flow::kNext;
}

Result<Evaluator::Flow> Evaluator::exec_for(const Stmt& stmt) {
  ASSIGN_OR_RETURN(const Value iterable, eval(*stmt.value));
  run_.at(stmt.line);
  ASSIGN_OR_RETURN(ForLoop loop, ForLoop::begin(*this, run_, stmt, iterable));
  bool completed = false;
  ASSIGN_OR_RETURN(const Flow flow, exec_loop(stmt, &loop, &completed));
  // As in Jinja, "else" also follows when every iteration was cut short.
  if (flow != Flow::kNext || completed || stmt.frames[1].body.empty()) return flow;
  return exec_frame(stmt.frames[1]);
}

Result<Evaluator::Flow> Evaluator::exec_loop(const Stmt& stmt, ForLoop* loop, bool* completed) {
  ASSIGN_OR_RETURN(Loop* const state, run_.make(Loop{.running = loop}));
  // Whatever the template kept of `loop` must not reach the ForLoop after its end.
  const auto end = [](Loop* ended) { ended->running = nullptr; };
  const std::unique_ptr<Loop, decltype(end)> ending(state, end);
  Value self;
  self.kind = Kind::kLoop;
  self.loop = state;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<Value> item, loop->next());
    if (!item) return Flow::kNext;
    const Block block(*this);
    clear_unset(stmt.frames[0]);
    scope_->set(tree_.loop, self);
    RETURN_IF_ERROR(assign(*stmt.target, *item));
    ASSIGN_OR_RETURN(const Flow flow, exec(stmt.frames[0].body));
    if (flow == Flow::kBreak) return Flow::kNext;
    if (flow == Flow::kNext) *completed = true;
  }
}

Result<bool> Evaluator::passes_filter(const Stmt& loop, const Value& item) {
  const Nesting nesting(run_);
  RETURN_IF_ERROR(nesting.status());
  const Block block(*this);
  RETURN_IF_ERROR(assign(*loop.target, item));
  ASSIGN_OR_RETURN(const Value passes, eval(*loop.filter));
  return truth(passes);
}

Result<Evaluator::Flow> Evaluator::exec_with(const Stmt& stmt) {
  std::vector<Value> values;
  for (const ExprPtr& expr : stmt.conditions) {
    ASSIGN_OR_RETURN(const Value value, eval(*expr));
    values.push_back(value);
  }
  const Block block(*this);
  clear_unset(stmt.frames[0]);
  for (size_t i = 0; i < values.size(); ++i) RETURN_IF_ERROR(assign(*stmt.targets[i], values[i]));
  return exec(stmt.frames[0].body);
}

Result<Value> Evaluator::filtered_body(const Stmt& stmt, Flow* flow) {
  Value text;
  {
    const Capture capture(*this);
    ASSIGN_OR_RETURN(*flow, exec_frame(stmt.frames[0]));
    ASSIGN_OR_RETURN(text, run_.text(capture.text()));
  }
  return stmt.filter ? eval_filter(*stmt.filter, &text) : text;
}

Result<Evaluator::Flow> Evaluator::exec_set_block(const Stmt& stmt) {
  Flow flow = Flow::kNext;
  ASSIGN_OR_RETURN(const Value value, filtered_body(stmt, &flow));
  if (flow == Flow::kNext) RETURN_IF_ERROR(assign(*stmt.target, value));
  return flow;
}

Result<Evaluator::Flow> Evaluator::exec_filter_block(const Stmt& stmt) {
  Flow flow = Flow::kNext;
  ASSIGN_OR_RETURN(const Value value, filtered_body(stmt, &flow));
  if (flow != Flow::kNext) return flow;
  ASSIGN_OR_RETURN(const Value text, to_text(run_, value));
  RETURN_IF_ERROR(write(text.text()));
  return Flow::kNext;
}

Status Evaluator::exec_call_block(const Stmt& stmt) {
  ASSIGN_OR_RETURN(const Value caller, make_macro(*stmt.macro));
  ASSIGN_OR_RETURN(const Value value, eval_call(*stmt.value, &caller));
  ASSIGN_OR_RETURN(const Value text, to_text(run_, value));
  return write(text.text());
}

Status Evaluator::assign(const Expr& target, const Value& value) {
  if (target.kind == Expr::Kind::kName) {
    RETURN_IF_ERROR(run_.charge(static_cast<int64_t>(scope_->variables.size() >> 4)));
    scope_->set(target.symbol, value);
    return {};
  }
  if (target.kind == Expr::Kind::kNamespaceAttribute) return assign_attribute(target, value);
  ASSIGN_OR_RETURN(const Value list, to_list(run_, value));
  if (list.size != target.children.size()) {
    return run_.error("cannot unpack " + std::to_string(list.size) + " values into " +
                      std::to_string(target.children.size()) + " names");
  }
  for (size_t i = 0; i < list.size; ++i) {
    RETURN_IF_ERROR(assign(*target.children[i], list.items[i]));
  }
  return {};
}

Status Evaluator::assign_attribute(const Expr& target, const Value& value) {
  ASSIGN_OR_RETURN(const Value object, eval_name(target));
  if (!object.is(Kind::kNamespace)) {
    return run_.error("attributes can be set on a namespace only, not on a value of type " +
                      std::string(object.type_name()));
  }
  if (target.text.starts_with('_')) {
    return run_.error("names in a namespace must not begin with an underscore");
  }
  Namespace& names = *object.names;
  RETURN_IF_ERROR(run_.charge(static_cast<int64_t>(names.size >> 2)));
  if (Value* const known = find_in_namespace(names, target.text); known != nullptr) {
    *known = value;
    return {};
  }
  if (names.size == names.capacity) {
    const size_t capacity = std::max<size_t>(8, 2 * names.capacity);
    ASSIGN_OR_RETURN(Entry* const entries, run_.allocate<Entry>(capacity));
    std::uninitialized_copy_n(names.entries, names.size, entries);
    names.entries = entries;
    names.capacity = capacity;
  }
  names.entries[names.size++] = {Value::string(target.text), value};
  return {};
}

Result<Value> Evaluator::make_macro(const MacroDefinition& definition) {
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    RETURN_IF_ERROR(run_.reserve(sizeof(Scope)));
    scope->captured = true;
  }
  ASSIGN_OR_RETURN(const Macro* const macro,
                   run_.make(Macro{.definition = &definition, .scope = scope_}));
  Value value;
  value.kind = Kind::kMacro;
  value.macro = macro;
  return value;
}

}  // namespace skein::jinja
