#include <algorithm>

#include "coordinator/template/grammar.h"

namespace skein::jinja {
namespace {

using Type = Token::Type;

// Expressions may be this much higher than they are nested: a.b(c)[d] | e grows without nesting.
constexpr int kHeightPerLevel = 4;

std::vector<ExprPtr> list_of(ExprPtr a) {
  std::vector<ExprPtr> list;
  list.push_back(std::move(a));
  return list;
}

std::vector<ExprPtr> list_of(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> list = list_of(std::move(a));
  list.push_back(std::move(b));
  return list;
}

int height_of(const std::vector<ExprPtr>& children) {
  int height = 0;
  for (const ExprPtr& child : children) {
    if (child) height = std::max(height, child->height);
  }
  return height;
}

}  // namespace

Status Parser::measure(Expr* expr) const {
  const Arguments& arguments = expr->arguments;
  int height = std::max(height_of(expr->children), height_of(arguments.positional));
  for (const auto& [name, value] : arguments.keywords) height = std::max(height, value->height);
  if (arguments.star) height = std::max(height, arguments.star->height);
  if (arguments.double_star) height = std::max(height, arguments.double_star->height);
  expr->height = height + 1;
  if (expr->height <= limits_.parse_depth_max * kHeightPerLevel) return {};
  return fail_at(expr->line, "an expression is nested too deeply");
}

Result<ExprPtr> Parser::make(Expr::Kind kind, int line, std::vector<ExprPtr> children) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->children = std::move(children);
  RETURN_IF_ERROR(measure(expr.get()));
  return expr;
}

ExprPtr Parser::make_const(const Value& value, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = Expr::Kind::kConst;
  expr->line = line;
  expr->constant = value;
  return expr;
}

ExprPtr Parser::make_name(std::string_view name, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = Expr::Kind::kName;
  expr->line = line;
  expr->text = name;
  expr->symbol = tree_->symbols.intern(name);
  return expr;
}

bool Parser::at_tuple_end(std::string_view end) const {
  if (current().is(Type::kVariableEnd) || current().is(Type::kBlockEnd) ||
      current().is_operator(")")) {
    return true;
  }
  return !end.empty() && current().is_name(end);
}

Result<ExprPtr> Parser::parse_tuple(Conditional conditional, std::string_view end) {
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (!at_tuple_end(end)) {
    ASSIGN_OR_RETURN(ExprPtr item, parse_expression(conditional));
    items.push_back(std::move(item));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (items.empty()) return fail("an expression is missing");
  if (!is_tuple) return std::move(items[0]);
  return make(Expr::Kind::kTuple, line, std::move(items));
}

Result<ExprPtr> Parser::parse_expression(Conditional conditional) {
  const Level level(&depth_);
  RETURN_IF_ERROR(check_depth());
  return conditional == Conditional::kYes ? parse_conditional() : parse_or();
}

Result<ExprPtr> Parser::parse_conditional() {
  const int line = current().line;
  const size_t unknown = unknown_.size();
  ASSIGN_OR_RETURN(ExprPtr expr, parse_or());
  while (skip_name("if")) {
    ASSIGN_OR_RETURN(ExprPtr test, parse_or());
    std::vector<ExprPtr> children = list_of(std::move(expr), std::move(test));
    children.emplace_back();
    if (skip_name("else")) {
      ASSIGN_OR_RETURN(children.back(), parse_expression());
    }
    unknown_.resize(unknown);
    ASSIGN_OR_RETURN(expr, make(Expr::Kind::kConditional, line, std::move(children)));
  }
  return expr;
}

Result<ExprPtr> Parser::parse_or() {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_and());
  if (!current().is_name("or")) return expr;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  while (skip_name("or")) {
    ASSIGN_OR_RETURN(ExprPtr right, parse_and());
    children.push_back(std::move(right));
  }
  return make(Expr::Kind::kOr, line, std::move(children));
}

Result<ExprPtr> Parser::parse_and() {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_not());
  if (!current().is_name("and")) return expr;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  while (skip_name("and")) {
    ASSIGN_OR_RETURN(ExprPtr right, parse_not());
    children.push_back(std::move(right));
  }
  return make(Expr::Kind::kAnd, line, std::move(children));
}

Result<ExprPtr> Parser::parse_not() {
  if (!current().is_name("not")) return parse_compare();
  const Level level(&depth_);
  RETURN_IF_ERROR(check_depth());
  const int line = next().line;
  ASSIGN_OR_RETURN(ExprPtr inner, parse_not());
  return make(Expr::Kind::kNot, line, list_of(std::move(inner)));
}

bool Parser::skip_compare_operator(Operator* op) {
  constexpr std::pair<std::string_view, Operator> kOperators[] = {
      {"==", Operator::kEqual},  {"!=", Operator::kNotEqual},  {"<", Operator::kLess},
      {">", Operator::kGreater}, {"<=", Operator::kLessEqual}, {">=", Operator::kGreaterEqual},
  };
  for (const auto& [text, meaning] : kOperators) {
    if (!skip_operator(text)) continue;
    *op = meaning;
    return true;
  }
  if (current().is_name("not") && peek().is_name("in")) {
    next();
    next();
    *op = Operator::kNotIn;
    return true;
  }
  *op = Operator::kIn;
  return skip_name("in");
}

Result<ExprPtr> Parser::parse_compare() {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_sum());
  std::vector<Operator> operators;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  for (Operator op; skip_compare_operator(&op);) {
    operators.push_back(op);
    ASSIGN_OR_RETURN(ExprPtr right, parse_sum());
    children.push_back(std::move(right));
  }
  if (operators.empty()) return std::move(children[0]);
  ASSIGN_OR_RETURN(expr, make(Expr::Kind::kCompare, line, std::move(children)));
  expr->operators = std::move(operators);
  return expr;
}

Result<ExprPtr> Parser::parse_sum() {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_concat());
  std::vector<Operator> operators;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  while (current().is_operator("+") || current().is_operator("-")) {
    operators.push_back(next().text == "+" ? Operator::kAdd : Operator::kSubtract);
    ASSIGN_OR_RETURN(ExprPtr right, parse_concat());
    children.push_back(std::move(right));
  }
  if (operators.empty()) return std::move(children[0]);
  ASSIGN_OR_RETURN(expr, make(Expr::Kind::kArithmetic, line, std::move(children)));
  expr->operators = std::move(operators);
  return expr;
}

Result<ExprPtr> Parser::parse_concat() {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_product());
  if (!current().is_operator("~")) return expr;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  while (skip_operator("~")) {
    ASSIGN_OR_RETURN(ExprPtr right, parse_product());
    children.push_back(std::move(right));
  }
  return make(Expr::Kind::kConcat, line, std::move(children));
}

Result<ExprPtr> Parser::parse_product() {
  constexpr std::pair<std::string_view, Operator> kOperators[] = {{"*", Operator::kMultiply},
                                                                  {"/", Operator::kDivide},
                                                                  {"//", Operator::kFloorDivide},
                                                                  {"%", Operator::kModulo}};
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_power());
  std::vector<Operator> operators;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  while (true) {
    const auto* const known =
        std::find_if(std::begin(kOperators), std::end(kOperators),
                     [&](const auto& entry) { return current().is_operator(entry.first); });
    if (known == std::end(kOperators)) break;
    next();
    operators.push_back(known->second);
    ASSIGN_OR_RETURN(ExprPtr right, parse_power());
    children.push_back(std::move(right));
  }
  if (operators.empty()) return std::move(children[0]);
  ASSIGN_OR_RETURN(expr, make(Expr::Kind::kArithmetic, line, std::move(children)));
  expr->operators = std::move(operators);
  return expr;
}

Result<ExprPtr> Parser::parse_power() {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, parse_unary(true));
  if (!current().is_operator("**")) return expr;
  std::vector<ExprPtr> children = list_of(std::move(expr));
  std::vector<Operator> operators;
  while (skip_operator("**")) {  // from left to right, as in Jinja
    operators.push_back(Operator::kPower);
    ASSIGN_OR_RETURN(ExprPtr right, parse_unary(true));
    children.push_back(std::move(right));
  }
  ASSIGN_OR_RETURN(expr, make(Expr::Kind::kArithmetic, line, std::move(children)));
  expr->operators = std::move(operators);
  return expr;
}

Result<ExprPtr> Parser::parse_unary(bool with_filter) {
  const Level level(&depth_);
  RETURN_IF_ERROR(check_depth());
  const int line = current().line;
  ExprPtr expr;
  if (current().is_operator("-") || current().is_operator("+")) {
    const Expr::Kind kind = next().text == "-" ? Expr::Kind::kNegate : Expr::Kind::kPlus;
    ASSIGN_OR_RETURN(ExprPtr inner, parse_unary(false));
    ASSIGN_OR_RETURN(expr, make(kind, line, list_of(std::move(inner))));
  } else {
    ASSIGN_OR_RETURN(expr, parse_primary());
  }
  ASSIGN_OR_RETURN(expr, parse_postfix(std::move(expr)));
  return with_filter ? parse_filter_expression(std::move(expr)) : std::move(expr);
}

Result<ExprPtr> Parser::parse_primary() {
  const Token& token = current();
  switch (token.type) {
    case Type::kName: return parse_name();
    case Type::kString: return parse_string();
    case Type::kInteger: return make_const(Value::integer_of(next().integer), token.line);
    case Type::kFloat: return make_const(Value::real_of(next().real), token.line);
    case Type::kOperator:
      if (token.text == "(") return parse_parenthesized();
      if (token.text == "[") return parse_list();
      if (token.text == "{") return parse_dict();
      return unexpected();
    case Type::kData:
    case Type::kVariableBegin:
    case Type::kVariableEnd:
    case Type::kBlockBegin:
    case Type::kBlockEnd:
    case Type::kEnd: return unexpected();
  }
  return unexpected();
}

Result<ExprPtr> Parser::parse_name() {
  const Token& token = next();
  const std::string_view name = token.text;
  if (name == "true" || name == "True") return make_const(Value::boolean_of(true), token.line);
  if (name == "false" || name == "False") return make_const(Value::boolean_of(false), token.line);
  if (name == "none" || name == "None") return make_const(Value::none(), token.line);
  ExprPtr expr = make_name(name, token.line);
  for (MacroDefinition* const macro : macros_) {
    macro->uses_caller |= expr->symbol == tree_->caller;
    macro->uses_varargs |= expr->symbol == tree_->varargs;
    macro->uses_kwargs |= expr->symbol == tree_->kwargs;
  }
  return expr;
}

Result<ExprPtr> Parser::parse_string() {
  const Token& token = next();
  std::string_view text = token.text;
  if (current().is(Type::kString)) {
    std::string joined(text);
    while (current().is(Type::kString)) joined += next().text;
    tree_->strings.push_back(std::move(joined));
    text = tree_->strings.back();
  }
  return make_const(Value::string(text), token.line);
}

Result<ExprPtr> Parser::parse_parenthesized() {
  const int line = next().line;
  if (skip_operator(")")) return make(Expr::Kind::kTuple, line, {});
  ASSIGN_OR_RETURN(ExprPtr expr, parse_tuple(Conditional::kYes));
  RETURN_IF_ERROR(expect_operator(")"));
  return expr;
}

Result<ExprPtr> Parser::parse_list() {
  const int line = next().line;
  std::vector<ExprPtr> items;
  while (!current().is_operator("]")) {
    if (!items.empty()) RETURN_IF_ERROR(expect_operator(","));
    if (current().is_operator("]")) break;
    ASSIGN_OR_RETURN(ExprPtr item, parse_expression());
    items.push_back(std::move(item));
  }
  RETURN_IF_ERROR(expect_operator("]"));
  return make(Expr::Kind::kList, line, std::move(items));
}

Result<ExprPtr> Parser::parse_dict() {
  const int line = next().line;
  std::vector<ExprPtr> items;
  while (!current().is_operator("}")) {
    if (!items.empty()) RETURN_IF_ERROR(expect_operator(","));
    if (current().is_operator("}")) break;
    ASSIGN_OR_RETURN(ExprPtr key, parse_expression());
    RETURN_IF_ERROR(expect_operator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
    items.push_back(std::move(key));
    items.push_back(std::move(value));
  }
  RETURN_IF_ERROR(expect_operator("}"));
  return make(Expr::Kind::kDict, line, std::move(items));
}

}  // namespace skein::jinja
