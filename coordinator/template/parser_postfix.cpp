#include "coordinator/template/filters.h"
#include "coordinator/template/grammar.h"
#include "coordinator/template/tests.h"

namespace skein::jinja {
namespace {

using Type = Token::Type;

std::vector<ExprPtr> list_of(ExprPtr a, ExprPtr b = nullptr) {
  std::vector<ExprPtr> list;
  list.push_back(std::move(a));
  if (b) list.push_back(std::move(b));
  return list;
}

}  // namespace

Result<ExprPtr> Parser::parse_postfix(ExprPtr node) {
  while (true) {
    if (current().is_operator(".")) {
      ASSIGN_OR_RETURN(node, parse_attribute(std::move(node)));
    } else if (current().is_operator("[")) {
      ASSIGN_OR_RETURN(node, parse_subscript(std::move(node)));
    } else if (current().is_operator("(")) {
      ASSIGN_OR_RETURN(node, parse_call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> Parser::parse_filter_expression(ExprPtr node) {
  while (true) {
    if (current().is_operator("|")) {
      ASSIGN_OR_RETURN(node, parse_filters(std::move(node), false));
    } else if (current().is_name("is")) {
      ASSIGN_OR_RETURN(node, parse_test(std::move(node)));
    } else if (current().is_operator("(")) {
      ASSIGN_OR_RETURN(node, parse_call(std::move(node)));
    } else {
      return node;
    }
  }
}

Result<ExprPtr> Parser::parse_attribute(ExprPtr node) {
  const int line = next().line;
  const Token& token = current();
  if (token.is(Type::kInteger)) {
    ExprPtr index = make_const(Value::integer_of(next().integer), line);
    return make(Expr::Kind::kItem, line, list_of(std::move(node), std::move(index)));
  }
  ASSIGN_OR_RETURN(const std::string_view name, expect_name());
  ASSIGN_OR_RETURN(ExprPtr expr, make(Expr::Kind::kAttribute, line, list_of(std::move(node))));
  expr->text = name;
  return expr;
}

Result<ExprPtr> Parser::parse_subscript(ExprPtr node) {
  const int line = next().line;
  if (current().is_operator(":")) return parse_slice(std::move(node), nullptr);
  std::vector<ExprPtr> keys;
  bool is_tuple = current().is_operator("]");  // a[] is a[()]
  while (!current().is_operator("]")) {
    if (!keys.empty()) {
      RETURN_IF_ERROR(expect_operator(","));
      is_tuple = true;
    }
    ASSIGN_OR_RETURN(ExprPtr key, parse_expression());
    keys.push_back(std::move(key));
    if (!current().is_operator(":")) continue;
    if (is_tuple) return fail("slices in a tuple are not supported");
    return parse_slice(std::move(node), std::move(keys[0]));
  }
  RETURN_IF_ERROR(expect_operator("]"));
  if (!is_tuple) return make(Expr::Kind::kItem, line, list_of(std::move(node), std::move(keys[0])));
  ASSIGN_OR_RETURN(ExprPtr tuple, make(Expr::Kind::kTuple, line, std::move(keys)));
  return make(Expr::Kind::kItem, line, list_of(std::move(node), std::move(tuple)));
}

// The cursor is at the first colon.
Result<ExprPtr> Parser::parse_slice(ExprPtr node, ExprPtr start) {
  const int line = current().line;
  std::vector<ExprPtr> children;
  children.push_back(std::move(node));
  children.push_back(std::move(start));
  while (children.size() < 4 && skip_operator(":")) {
    ExprPtr& bound = children.emplace_back();
    if (current().is_operator(":") || current().is_operator("]")) continue;
    ASSIGN_OR_RETURN(bound, parse_expression());
  }
  children.resize(4);
  RETURN_IF_ERROR(expect_operator("]"));
  return make(Expr::Kind::kSlice, line, std::move(children));
}

Status Parser::check_new_name(std::string_view name, const Arguments& arguments) const {
  if (arguments.keywords.size() >= kNamesMax) return fail("too many named arguments");
  for (const auto& [other, value] : arguments.keywords) {
    if (other == name) return fail("the argument '" + std::string(name) + "' is given twice");
  }
  return {};
}

Status Parser::parse_arguments(Arguments* arguments) {
  RETURN_IF_ERROR(expect_operator("("));
  for (bool first = true; !current().is_operator(")"); first = false) {
    if (!first) RETURN_IF_ERROR(expect_operator(","));
    if (current().is_operator(")")) break;
    const bool before_stars = !arguments->star && !arguments->double_star;
    if (skip_operator("*")) {
      if (!before_stars) return fail("misplaced *arguments");
      ASSIGN_OR_RETURN(arguments->star, parse_expression());
    } else if (skip_operator("**")) {
      if (arguments->double_star) return fail("misplaced **arguments");
      ASSIGN_OR_RETURN(arguments->double_star, parse_expression());
    } else if (current().is(Type::kName) && peek().is_operator("=")) {
      if (arguments->double_star) return fail("a named argument follows **arguments");
      const std::string_view name = next().text;
      next();
      RETURN_IF_ERROR(check_new_name(name, *arguments));
      ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
      arguments->keywords.emplace_back(name, std::move(value));
    } else {
      if (!before_stars || !arguments->keywords.empty()) {
        return fail("an argument follows a named one");
      }
      ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
      arguments->positional.push_back(std::move(value));
    }
  }
  return expect_operator(")");
}

Result<ExprPtr> Parser::parse_call(ExprPtr node) {
  const int line = current().line;
  ASSIGN_OR_RETURN(ExprPtr expr, make(Expr::Kind::kCall, line, list_of(std::move(node))));
  RETURN_IF_ERROR(parse_arguments(&expr->arguments));
  RETURN_IF_ERROR(measure(expr.get()));
  return expr;
}

Result<std::string_view> Parser::parse_dotted_name() {
  ASSIGN_OR_RETURN(std::string_view name, expect_name());
  if (!current().is_operator(".")) return name;
  std::string dotted(name);
  while (skip_operator(".")) {
    ASSIGN_OR_RETURN(const std::string_view part, expect_name());
    dotted += "." + std::string(part);
  }
  tree_->strings.push_back(std::move(dotted));
  return std::string_view(tree_->strings.back());
}

// `node` may be null: what a filter block or a set block holds.
Result<ExprPtr> Parser::parse_filters(ExprPtr node, bool inline_first) {
  while (inline_first || skip_operator("|")) {
    inline_first = false;
    ASSIGN_OR_RETURN(node, parse_filter(std::move(node)));
  }
  return node;
}

Result<ExprPtr> Parser::parse_filter(ExprPtr node) {
  const int line = current().line;
  ASSIGN_OR_RETURN(const std::string_view name, parse_dotted_name());
  ASSIGN_OR_RETURN(ExprPtr expr, make(Expr::Kind::kFilter, line, list_of(std::move(node))));
  expr->text = name;
  expr->symbol = find_filter(name);
  if (expr->symbol < 0) unknown_.push_back(fail_at(line, no_filter(name)));
  if (current().is_operator("(")) RETURN_IF_ERROR(parse_arguments(&expr->arguments));
  RETURN_IF_ERROR(measure(expr.get()));
  return expr;
}

Result<ExprPtr> Parser::parse_test(ExprPtr node) {
  const int line = next().line;
  const bool negated = skip_name("not");
  ASSIGN_OR_RETURN(const std::string_view name, parse_dotted_name());
  ASSIGN_OR_RETURN(ExprPtr expr, make(Expr::Kind::kTest, line, list_of(std::move(node))));
  expr->text = name;
  expr->symbol = find_test(name);
  if (expr->symbol < 0) unknown_.push_back(fail_at(line, no_test(name)));
  const Token& token = current();
  const bool literal = token.is(Type::kString) || token.is(Type::kInteger) ||
                       token.is(Type::kFloat) || token.is_operator("[") || token.is_operator("{");
  const bool name_follows =
      token.is(Type::kName) && token.text != "else" && token.text != "or" && token.text != "and";
  if (token.is_operator("(")) {
    RETURN_IF_ERROR(parse_arguments(&expr->arguments));
  } else if (literal || name_follows) {
    if (token.is_name("is")) return fail("tests cannot be chained with 'is'");
    ASSIGN_OR_RETURN(ExprPtr argument, parse_primary());
    ASSIGN_OR_RETURN(argument, parse_postfix(std::move(argument)));
    expr->arguments.positional.push_back(std::move(argument));
  }
  RETURN_IF_ERROR(measure(expr.get()));
  return negated ? make(Expr::Kind::kNot, line, list_of(std::move(expr))) : std::move(expr);
}

}  // namespace skein::jinja
