#include "coordinator/template/evaluator.h"
#include "coordinator/template/filters.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/tests.h"
#include "coordinator/template/text.h"

namespace skein::jinja {

Result<Value> Evaluator::eval(const Expr& expr) {
  RETURN_IF_ERROR(run_.charge(1));
  if (expr.kind == Expr::Kind::kConst) return expr.constant;
  run_.at(expr.line);
  if (expr.kind == Expr::Kind::kName) return eval_name(expr);
  return eval_nested(expr);
}

Result<Value> Evaluator::eval_nested(const Expr& expr) {
  const Nesting nesting(run_);
  RETURN_IF_ERROR(nesting.status());
  switch (expr.kind) {
    case Expr::Kind::kConst: return expr.constant;
    case Expr::Kind::kName:
    case Expr::Kind::kNamespaceAttribute: return eval_name(expr);
    case Expr::Kind::kTuple:
    case Expr::Kind::kList: return eval_sequence(expr);
    case Expr::Kind::kDict: return eval_dict(expr);
    case Expr::Kind::kItem: return eval_item(expr);
    case Expr::Kind::kSlice: return eval_slice(expr);
    case Expr::Kind::kCall: return eval_call(expr, nullptr);
    case Expr::Kind::kFilter: return eval_filter(expr, nullptr);
    case Expr::Kind::kTest: return eval_test(expr);
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr: return eval_logic(expr);
    case Expr::Kind::kConcat: return eval_concat(expr);
    case Expr::Kind::kArithmetic: return eval_arithmetic(expr);
    case Expr::Kind::kCompare: return eval_compare(expr);
    case Expr::Kind::kConditional: return eval_conditional(expr);
    case Expr::Kind::kAttribute:
    case Expr::Kind::kNot:
    case Expr::Kind::kNegate:
    case Expr::Kind::kPlus: break;
  }
  ASSIGN_OR_RETURN(const Value inner, eval(*expr.children[0]));
  run_.at(expr.line);
  if (expr.kind == Expr::Kind::kAttribute) return get_attribute(run_, inner, expr.text);
  if (expr.kind == Expr::Kind::kNot) return Value::boolean_of(!truth(inner));
  return expr.kind == Expr::Kind::kNegate ? negate(run_, inner) : plus(run_, inner);
}

Result<Value> Evaluator::eval_name(const Expr& expr) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    RETURN_IF_ERROR(run_.charge(static_cast<int64_t>(scope->variables.size() >> 4)));
    if (const Value* const value = scope->find(expr.symbol); value != nullptr) return *value;
  }
  const Value& given = variables_[expr.symbol];
  return given.is_undefined() ? Value::undefined_variable(tree_.symbols.name(expr.symbol)) : given;
}

Result<Value> Evaluator::eval_sequence(const Expr& expr) {
  ListBuilder list(run_);
  for (const ExprPtr& child : expr.children) {
    ASSIGN_OR_RETURN(const Value item, eval(*child));
    RETURN_IF_ERROR(list.push(item));
  }
  return list.finish(expr.kind == Expr::Kind::kTuple ? Kind::kTuple : Kind::kList);
}

Result<Value> Evaluator::eval_dict(const Expr& expr) {
  DictBuilder dict(run_);
  for (size_t i = 0; i + 1 < expr.children.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, eval(*expr.children[i]));
    ASSIGN_OR_RETURN(const Value value, eval(*expr.children[i + 1]));
    RETURN_IF_ERROR(dict.set(key, value));
  }
  return dict.finish();
}

Result<Value> Evaluator::eval_item(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value object, eval(*expr.children[0]));
  ASSIGN_OR_RETURN(const Value key, eval(*expr.children[1]));
  run_.at(expr.line);
  return get_item(run_, object, key);
}

Result<Value> Evaluator::eval_slice(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value object, eval(*expr.children[0]));
  Value bounds[3] = {Value::none(), Value::none(), Value::none()};
  for (size_t i = 0; i < 3; ++i) {
    if (!expr.children[i + 1]) continue;
    ASSIGN_OR_RETURN(bounds[i], eval(*expr.children[i + 1]));
  }
  run_.at(expr.line);
  return get_slice(run_, object, {.start = &bounds[0], .stop = &bounds[1], .step = &bounds[2]});
}

Result<Value> Evaluator::eval_filter(const Expr& expr, const Value* piped) {
  Value value;
  if (!expr.children[0]) {
    CHECK(piped != nullptr);
    value = *piped;
  } else if (piped != nullptr) {  // a chain of filters on what a block holds
    ASSIGN_OR_RETURN(value, eval_filter(*expr.children[0], piped));
  } else {
    ASSIGN_OR_RETURN(value, eval(*expr.children[0]));
  }
  CallArguments arguments;
  RETURN_IF_ERROR(eval_arguments(expr.arguments, &arguments));
  run_.at(expr.line);
  return apply_filter(run_, expr.symbol, expr.text, value, arguments);
}

Result<Value> Evaluator::eval_test(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value value, eval(*expr.children[0]));
  CallArguments arguments;
  RETURN_IF_ERROR(eval_arguments(expr.arguments, &arguments));
  run_.at(expr.line);
  ASSIGN_OR_RETURN(const bool holds, apply_test(run_, expr.symbol, expr.text, value, arguments));
  return Value::boolean_of(holds);
}

Result<Value> Evaluator::eval_logic(const Expr& expr) {
  const bool stops_at = expr.kind == Expr::Kind::kOr;
  Value value;
  for (const ExprPtr& child : expr.children) {
    ASSIGN_OR_RETURN(value, eval(*child));
    if (truth(value) == stops_at) break;
  }
  return value;
}

Result<Value> Evaluator::eval_concat(const Expr& expr) {
  std::string out;
  for (const ExprPtr& child : expr.children) {
    ASSIGN_OR_RETURN(const Value value, eval(*child));
    RETURN_IF_ERROR(append_text(run_, value, &out));
  }
  return run_.text(out);
}

Result<Value> Evaluator::eval_arithmetic(const Expr& expr) {
  ASSIGN_OR_RETURN(Value value, eval(*expr.children[0]));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    ASSIGN_OR_RETURN(const Value right, eval(*expr.children[i + 1]));
    run_.at(expr.line);
    ASSIGN_OR_RETURN(value, arithmetic(run_, expr.operators[i], value, right));
  }
  return value;
}

Result<Value> Evaluator::eval_compare(const Expr& expr) {
  ASSIGN_OR_RETURN(Value left, eval(*expr.children[0]));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    ASSIGN_OR_RETURN(const Value right, eval(*expr.children[i + 1]));
    run_.at(expr.line);
    ASSIGN_OR_RETURN(const bool holds, compare(run_, expr.operators[i], left, right));
    if (!holds) return Value::boolean_of(false);
    left = right;
  }
  return Value::boolean_of(true);
}

Result<Value> Evaluator::eval_conditional(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value condition, eval(*expr.children[1]));
  if (truth(condition)) return eval(*expr.children[0]);
  if (expr.children[2]) return eval(*expr.children[2]);
  return Value::undefined_because("an 'if' without 'else' in an expression was false");
}

}  // namespace skein::jinja
