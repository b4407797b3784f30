#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/template/ast.h"
#include "coordinator/template/chat_template.h"
#include "coordinator/template/lexer.h"

namespace skein::jinja {

constexpr size_t kNamesMax = 255;  // of one macro's parameters, and of one call's named arguments

// Recursive descent over the tokens, rule by rule as Jinja's own grammar. parser.cpp has the
// statements, parser_expression.cpp the expressions.
class Parser {
 public:
  Parser(const TemplateLimits& limits, std::vector<Token> tokens, SyntaxTree* tree)
      : limits_(limits), tokens_(std::move(tokens)), tree_(tree) {}

  Status parse_template();

 private:
  using Names = std::initializer_list<std::string_view>;
  enum class Conditional : bool { kNo, kYes };  // whether "a if b else c" may stand there

  const Token& current() const { return tokens_[at_]; }
  const Token& peek() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool skip_name(std::string_view name);
  bool skip_operator(std::string_view text);
  Status expect_operator(std::string_view text);
  Status expect_block_end();
  Result<std::string_view> expect_name();
  Status fail(std::string_view what) const { return fail_at(current().line, what); }
  Status fail_at(int line, std::string_view what) const;
  Status unexpected() const;  // the current token
  // Counts a level of nesting; check_depth() refuses too many.
  class Level {
   public:
    explicit Level(int* depth) : depth_(depth) { ++*depth_; }
    ~Level() { --*depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    int* depth_;
  };
  Status check_depth() const;

  // Until a block that starts with one of `ends`, or the end of the template; the cursor is then at
  // its name.
  Status parse_body(Names ends, Body* body);
  // ":"? "%}" body, then the name that ends it, which is skipped and returned.
  Result<std::string_view> parse_block_body(Names ends, Body* body);
  Result<Stmt> parse_statement();
  Result<Stmt> parse_if(Stmt stmt);
  Result<Stmt> parse_for(Stmt stmt);
  Result<Stmt> parse_set(Stmt stmt);
  Result<Stmt> parse_with(Stmt stmt);
  Result<Stmt> parse_macro(Stmt stmt);
  Result<Stmt> parse_call_block(Stmt stmt);
  Result<Stmt> parse_filter_block(Stmt stmt);
  Result<Stmt> parse_generation(Stmt stmt);
  Result<Stmt> parse_jump(Stmt stmt, Stmt::Kind kind);
  Result<Stmt> parse_print(Stmt stmt);
  Status parse_signature(MacroDefinition* macro);
  Status parse_macro_body(std::string_view end, MacroDefinition* macro);
  enum class Target : bool { kVariables, kNamespaceToo };
  // What may be assigned to: a name, several with commas, parentheses; up to `end` (a name) or "="
  // or the end of the tag.
  Result<ExprPtr> parse_targets(Target allowed, std::string_view end);
  Result<ExprPtr> parse_target(Target allowed);

  Result<ExprPtr> parse_expression(Conditional conditional = Conditional::kYes);
  // One expression, or several with commas as a tuple, up to `end` (a name) or the end of the tag.
  Result<ExprPtr> parse_tuple(Conditional conditional, std::string_view end = {});
  bool at_tuple_end(std::string_view end) const;
  Result<ExprPtr> parse_conditional();
  Result<ExprPtr> parse_or();
  Result<ExprPtr> parse_and();
  Result<ExprPtr> parse_not();
  Result<ExprPtr> parse_compare();
  bool skip_compare_operator(Operator* op);
  Result<ExprPtr> parse_sum();
  Result<ExprPtr> parse_concat();
  Result<ExprPtr> parse_product();
  Result<ExprPtr> parse_power();
  Result<ExprPtr> parse_unary(bool with_filter);
  Result<ExprPtr> parse_primary();
  Result<ExprPtr> parse_name();
  Result<ExprPtr> parse_string();
  Result<ExprPtr> parse_parenthesized();
  Result<ExprPtr> parse_list();
  Result<ExprPtr> parse_dict();
  Result<ExprPtr> parse_postfix(ExprPtr node);
  Result<ExprPtr> parse_attribute(ExprPtr node);
  Result<ExprPtr> parse_subscript(ExprPtr node);
  Result<ExprPtr> parse_slice(ExprPtr node, ExprPtr start);
  Result<ExprPtr> parse_call(ExprPtr node);
  Result<ExprPtr> parse_filters(ExprPtr node, bool inline_first);
  Result<ExprPtr> parse_filter(ExprPtr node);
  Result<ExprPtr> parse_filter_expression(ExprPtr node);
  Result<ExprPtr> parse_test(ExprPtr node);
  Status parse_arguments(Arguments* arguments);
  Status check_new_name(std::string_view name, const Arguments& arguments) const;
  Result<std::string_view> parse_dotted_name();

  // A node with these children; refuses one that would be too high.
  Result<ExprPtr> make(Expr::Kind kind, int line, std::vector<ExprPtr> children);
  Status measure(Expr* expr) const;
  static ExprPtr make_const(const Value& value, int line);
  ExprPtr make_name(std::string_view name, int line);

  const TemplateLimits& limits_;
  std::vector<Token> tokens_;
  SyntaxTree* tree_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;  // open for loops that break and continue may mean
  // Unknown filters and tests. In an if, or in a conditional expression, one is an error only when
  // it is reached.
  std::vector<Status> unknown_;
  std::vector<MacroDefinition*> macros_;  // being parsed
};

}  // namespace skein::jinja
