#include <algorithm>
#include <utility>

#include "coordinator/template/evaluator.h"
#include "coordinator/template/text.h"

namespace skein::jinja {
namespace {

const Value* find_keyword(const CallArguments& arguments, std::string_view name) {
  const auto at = std::find_if(arguments.keywords.begin(), arguments.keywords.end(),
                               [&](const auto& keyword) { return keyword.first == name; });
  return at == arguments.keywords.end() ? nullptr : &at->second;
}

bool takes_keyword(const MacroDefinition& macro, size_t positional, std::string_view name) {
  const auto& names = macro.parameter_names;
  if (macro.uses_caller && name == "caller") return true;
  return positional < names.size() &&
         std::find(names.begin() + static_cast<std::ptrdiff_t>(positional), names.end(), name) !=
             names.end();
}

}  // namespace

Status Evaluator::eval_arguments(const Arguments& arguments, CallArguments* out) {
  out->positional.reserve(arguments.positional.size());
  for (const ExprPtr& expr : arguments.positional) {
    ASSIGN_OR_RETURN(const Value value, eval(*expr));
    out->positional.push_back(value);
  }
  for (const auto& [name, expr] : arguments.keywords) {
    ASSIGN_OR_RETURN(const Value value, eval(*expr));
    out->keywords.emplace_back(name, value);
  }
  if (!arguments.star && !arguments.double_star) return {};
  return eval_stars(arguments, out);
}

Status Evaluator::eval_stars(const Arguments& arguments, CallArguments* out) {
  if (arguments.star) {
    ASSIGN_OR_RETURN(const Value value, eval(*arguments.star));
    ASSIGN_OR_RETURN(const Value list, to_list(run_, value));
    RETURN_IF_ERROR(run_.reserve(list.size * sizeof(Value)));
    out->positional.insert(out->positional.end(), list.items, list.items + list.size);
  }
  if (!arguments.double_star) return {};
  ASSIGN_OR_RETURN(const Value value, eval(*arguments.double_star));
  if (!value.is(Kind::kDict)) return run_.error("** needs a dict");
  for (size_t i = 0; i < value.dict->size; ++i) {
    const Entry& entry = value.dict->entries[i];
    if (!entry.key.is_string()) return run_.error("** needs a dict with strings as keys");
    RETURN_IF_ERROR(run_.charge(1 + static_cast<int64_t>(out->keywords.size() >> 3)));
    if (find_keyword(*out, entry.key.text()) != nullptr) {
      return run_.error("the argument '" + std::string(entry.key.text().substr(0, 100)) +
                        "' is given twice");
    }
    out->keywords.emplace_back(entry.key.text(), entry.value);
  }
  return {};
}

Result<Value> Evaluator::eval_call(const Expr& expr, const Value* caller) {
  ASSIGN_OR_RETURN(const Value callee, eval(*expr.children[0]));
  CallArguments arguments;
  RETURN_IF_ERROR(eval_arguments(expr.arguments, &arguments));
  if (caller != nullptr) arguments.keywords.emplace_back("caller", *caller);
  run_.at(expr.line);
  return call(callee, arguments);
}

Result<Value> Evaluator::call(const Value& callee, const CallArguments& arguments) {
  switch (callee.kind) {
    case Kind::kMacro: return call_macro(*callee.macro, arguments);
    case Kind::kFunction: return call_global(run_, static_cast<int>(callee.integer), arguments);
    case Kind::kMethod: return call_method(run_, *callee.method, arguments);
    case Kind::kJoiner: {
      const bool first = !std::exchange(callee.joiner->used, true);
      return first ? Value::string("") : callee.joiner->separator;
    }
    case Kind::kUndefined: return run_.error(undefined_message(callee));
    default:
      return run_.error("a value of type " + std::string(callee.type_name()) + " cannot be called");
  }
}

Result<Value> Evaluator::call_macro(const Macro& macro, const CallArguments& arguments) {
  const Nesting nesting(run_);
  RETURN_IF_ERROR(nesting.status());
  if (calls_ >= run_.limits().call_depth_max) {
    return run_.error("macros call each other more than " +
                      std::to_string(run_.limits().call_depth_max) + " levels deep");
  }
  ++calls_;
  const int line = run_.line();
  auto result = run_macro(macro, arguments);
  --calls_;
  if (result.ok()) run_.at(line);
  return result;
}

Result<Value> Evaluator::run_macro(const Macro& macro, const CallArguments& arguments) {
  const Block block(*this, macro.scope);
  const Capture capture(*this);
  clear_unset(macro.definition->frame);
  RETURN_IF_ERROR(bind_macro(*macro.definition, arguments));
  RETURN_IF_ERROR(exec(macro.definition->frame.body).status());
  return run_.text(capture.text());
}

Status Evaluator::bind_macro(const MacroDefinition& definition, const CallArguments& arguments) {
  const auto& [positional, keywords] = arguments;
  const size_t count = definition.parameters.size();
  RETURN_IF_ERROR(run_.charge(static_cast<int64_t>(count * keywords.size() >> 3)));
  if (positional.size() > count && !definition.uses_varargs) {
    return run_.error("the macro '" + std::string(definition.name) + "' takes at most " +
                      std::to_string(count) + " arguments");
  }
  RETURN_IF_ERROR(bind_extras(definition, arguments));
  const size_t first_default = count - definition.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    Value value = Value::undefined_variable(definition.parameter_names[i]);
    if (i < positional.size()) {
      value = positional[i];
    } else if (const Value* const keyword =
                   find_keyword(arguments, definition.parameter_names[i])) {
      value = *keyword;
    } else if (i >= first_default) {
      // May refer to the parameters before it.
      ASSIGN_OR_RETURN(value, eval(*definition.defaults[i - first_default]));
    }
    scope_->set(definition.parameters[i], value);
  }
  return {};
}

// caller, varargs and kwargs, and the refusal of keywords that nobody takes.
Status Evaluator::bind_extras(const MacroDefinition& definition, const CallArguments& arguments) {
  const auto& [positional, keywords] = arguments;
  if (definition.uses_caller) {
    const Value* const caller = find_keyword(arguments, "caller");
    scope_->set(tree_.caller,
                caller != nullptr ? *caller : Value::undefined_because("no caller is defined"));
  }
  DictBuilder extra(run_);
  for (const auto& [name, value] : keywords) {
    if (takes_keyword(definition, positional.size(), name)) continue;
    if (!definition.uses_kwargs) {
      return run_.error("the macro '" + std::string(definition.name) +
                        "' takes no argument named '" + std::string(name.substr(0, 100)) + "'");
    }
    RETURN_IF_ERROR(extra.set(Value::string(name), value));
  }
  if (definition.uses_kwargs) {
    ASSIGN_OR_RETURN(const Value kwargs, extra.finish());
    scope_->set(tree_.kwargs, kwargs);
  }
  if (definition.uses_varargs) {
    const size_t taken = std::min(positional.size(), definition.parameters.size());
    ASSIGN_OR_RETURN(const Value varargs,
                     run_.sequence(Kind::kTuple, std::span(positional).subspan(taken)));
    scope_->set(tree_.varargs, varargs);
  }
  return {};
}

}  // namespace skein::jinja
