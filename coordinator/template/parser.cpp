#include "coordinator/template/parser.h"

#include <algorithm>

#include "coordinator/template/frames.h"
#include "coordinator/template/grammar.h"

namespace skein::jinja {
namespace {

using Type = Token::Type;

std::string describe(const Token& token) {
  switch (token.type) {
    case Type::kVariableEnd: return "}}";
    case Type::kBlockEnd: return "%}";
    case Type::kEnd: return "the end of the template";
    case Type::kString: return "a string";
    case Type::kData:
    case Type::kVariableBegin:
    case Type::kBlockBegin:
    case Type::kName:
    case Type::kInteger:
    case Type::kFloat:
    case Type::kOperator: break;
  }
  return "'" + std::string(token.text.substr(0, 40)) + "'";
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool Parser::skip_name(std::string_view name) {
  const bool there = current().is_name(name);
  if (there) next();
  return there;
}

bool Parser::skip_operator(std::string_view text) {
  const bool there = current().is_operator(text);
  if (there) next();
  return there;
}

Status Parser::expect_operator(std::string_view text) {
  if (skip_operator(text)) return {};
  return fail("expected '" + std::string(text) + "' instead of " + describe(current()));
}

Status Parser::expect_block_end() {
  if (!current().is(Type::kBlockEnd)) return unexpected();
  next();
  return {};
}

Result<std::string_view> Parser::expect_name() {
  if (!current().is(Type::kName)) return fail("expected a name instead of " + describe(current()));
  return next().text;
}

Status Parser::fail_at(int line, std::string_view what) const {
  return invalid_argument("line " + std::to_string(line) + ": " + std::string(what));
}

Status Parser::unexpected() const { return fail("unexpected " + describe(current())); }

Status Parser::check_depth() const {
  if (depth_ <= limits_.parse_depth_max) return {};
  return fail("nested deeper than " + std::to_string(limits_.parse_depth_max) + " levels");
}

Status Parser::parse_template() {
  SyntaxTree& tree = *tree_;
  tree.loop = tree.symbols.intern("loop");
  tree.caller = tree.symbols.intern("caller");
  tree.varargs = tree.symbols.intern("varargs");
  tree.kwargs = tree.symbols.intern("kwargs");
  RETURN_IF_ERROR(parse_body({}, &tree.frame.body));
  if (!unknown_.empty()) return unknown_[0];
  find_unset_names(tree_);
  return {};
}

Status Parser::parse_body(Names ends, Body* body) {
  const Level level(&depth_);
  RETURN_IF_ERROR(check_depth());
  while (true) {
    const Token& token = next();
    if (token.is(Type::kEnd)) {
      if (ends.size() == 0) return {};
      return fail_at(token.line, "the template ends where {% " + std::string(*(ends.end() - 1)) +
                                     " %} is missing");
    }
    Stmt stmt{.line = token.line};
    if (token.is(Type::kData)) {
      stmt.text = token.text;
    } else if (token.is(Type::kVariableBegin)) {
      stmt.kind = Stmt::Kind::kPrint;
      ASSIGN_OR_RETURN(stmt.value, parse_tuple(Conditional::kYes));
      if (!current().is(Type::kVariableEnd)) return unexpected();
      next();
    } else {
      if (current().is(Type::kName) && is_one_of(current().text, ends)) return {};
      ASSIGN_OR_RETURN(stmt, parse_statement());
      RETURN_IF_ERROR(expect_block_end());
    }
    body->push_back(std::move(stmt));
  }
}

Result<std::string_view> Parser::parse_block_body(Names ends, Body* body) {
  skip_operator(":");
  RETURN_IF_ERROR(expect_block_end());
  RETURN_IF_ERROR(parse_body(ends, body));
  return next().text;
}

Result<Stmt> Parser::parse_statement() {
  ASSIGN_OR_RETURN(const std::string_view name, expect_name());
  Stmt stmt{.line = tokens_[at_ - 1].line};
  if (name == "if") return parse_if(std::move(stmt));
  if (name == "for") return parse_for(std::move(stmt));
  if (name == "set") return parse_set(std::move(stmt));
  if (name == "print") return parse_print(std::move(stmt));
  if (name == "macro") return parse_macro(std::move(stmt));
  if (name == "call") return parse_call_block(std::move(stmt));
  if (name == "filter") return parse_filter_block(std::move(stmt));
  if (name == "with") return parse_with(std::move(stmt));
  if (name == "generation") return parse_generation(std::move(stmt));
  if (name == "break") return parse_jump(std::move(stmt), Stmt::Kind::kBreak);
  if (name == "continue") return parse_jump(std::move(stmt), Stmt::Kind::kContinue);
  if (is_one_of(name, {"extends", "include", "import", "from", "block", "autoescape"})) {
    return fail_at(stmt.line,
                   "the tag '" + std::string(name) + "' is not supported in chat templates");
  }
  return fail_at(stmt.line, "unknown or misplaced tag '" + std::string(name.substr(0, 40)) + "'");
}

Result<Stmt> Parser::parse_if(Stmt stmt) {
  stmt.kind = Stmt::Kind::kIf;
  const size_t unknown = unknown_.size();
  std::string_view end = "elif";
  while (end == "elif") {
    ASSIGN_OR_RETURN(ExprPtr condition, parse_tuple(Conditional::kNo));
    stmt.conditions.push_back(std::move(condition));
    ASSIGN_OR_RETURN(end, parse_block_body({"elif", "else", "endif"}, &stmt.bodies.emplace_back()));
  }
  if (end == "else") {
    RETURN_IF_ERROR(parse_block_body({"endif"}, &stmt.bodies.emplace_back()).status());
  }
  unknown_.resize(unknown);
  return stmt;
}

Result<Stmt> Parser::parse_for(Stmt stmt) {
  stmt.kind = Stmt::Kind::kFor;
  ASSIGN_OR_RETURN(stmt.target, parse_targets(Target::kVariables, "in"));
  if (!skip_name("in")) return unexpected();
  ASSIGN_OR_RETURN(stmt.value, parse_tuple(Conditional::kNo, "recursive"));
  if (skip_name("if")) {
    ASSIGN_OR_RETURN(stmt.filter, parse_expression());
  }
  if (current().is_name("recursive")) {
    return fail("recursive loops are not supported in chat templates");
  }
  stmt.frames.resize(2);
  ++loops_;
  ASSIGN_OR_RETURN(const std::string_view end,
                   parse_block_body({"else", "endfor"}, &stmt.frames[0].body));
  --loops_;
  if (end == "else") RETURN_IF_ERROR(parse_block_body({"endfor"}, &stmt.frames[1].body).status());
  return stmt;
}

Result<Stmt> Parser::parse_set(Stmt stmt) {
  ASSIGN_OR_RETURN(stmt.target, parse_targets(Target::kNamespaceToo, {}));
  if (skip_operator("=")) {
    stmt.kind = Stmt::Kind::kSet;
    ASSIGN_OR_RETURN(stmt.value, parse_tuple(Conditional::kYes));
    return stmt;
  }
  stmt.kind = Stmt::Kind::kSetBlock;
  ASSIGN_OR_RETURN(stmt.filter, parse_filters(nullptr, false));
  RETURN_IF_ERROR(parse_block_body({"endset"}, &stmt.frames.emplace_back().body).status());
  return stmt;
}

Result<Stmt> Parser::parse_print(Stmt stmt) {
  std::vector<ExprPtr> printed;
  while (!current().is(Type::kBlockEnd)) {
    if (!printed.empty()) RETURN_IF_ERROR(expect_operator(","));
    ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
    printed.push_back(std::move(value));
  }
  stmt.kind = Stmt::Kind::kPrint;
  ASSIGN_OR_RETURN(stmt.value, make(Expr::Kind::kConcat, stmt.line, std::move(printed)));
  return stmt;
}

Result<Stmt> Parser::parse_with(Stmt stmt) {
  stmt.kind = Stmt::Kind::kWith;
  while (!current().is(Type::kBlockEnd)) {
    if (!stmt.targets.empty()) RETURN_IF_ERROR(expect_operator(","));
    ASSIGN_OR_RETURN(ExprPtr target, parse_target(Target::kVariables));
    RETURN_IF_ERROR(expect_operator("="));
    ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
    stmt.targets.push_back(std::move(target));
    stmt.conditions.push_back(std::move(value));
  }
  RETURN_IF_ERROR(parse_block_body({"endwith"}, &stmt.frames.emplace_back().body).status());
  return stmt;
}

Status Parser::parse_signature(MacroDefinition* macro) {
  RETURN_IF_ERROR(expect_operator("("));
  while (!current().is_operator(")")) {
    if (!macro->parameters.empty()) RETURN_IF_ERROR(expect_operator(","));
    if (macro->parameters.size() >= kNamesMax) return fail("a macro has too many parameters");
    ASSIGN_OR_RETURN(const std::string_view name, expect_name());
    const int symbol = tree_->symbols.intern(name);
    if (std::find(macro->parameters.begin(), macro->parameters.end(), symbol) !=
        macro->parameters.end()) {
      return fail("a macro has two parameters named '" + std::string(name) + "'");
    }
    macro->parameters.push_back(symbol);
    macro->parameter_names.push_back(name);
    if (skip_operator("=")) {
      ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
      macro->defaults.push_back(std::move(value));
    } else if (!macro->defaults.empty()) {
      return fail("a parameter without a default follows one with a default");
    }
  }
  return expect_operator(")");
}

Status Parser::parse_macro_body(std::string_view end, MacroDefinition* macro) {
  const int loops = std::exchange(loops_, 0);
  macros_.push_back(macro);
  RETURN_IF_ERROR(parse_block_body({end}, &macro->frame.body).status());
  macros_.pop_back();
  loops_ = loops;
  return {};
}

Result<Stmt> Parser::parse_macro(Stmt stmt) {
  stmt.kind = Stmt::Kind::kMacro;
  stmt.macro = std::make_unique<MacroDefinition>();
  ASSIGN_OR_RETURN(stmt.macro->name, expect_name());
  stmt.symbol = tree_->symbols.intern(stmt.macro->name);
  RETURN_IF_ERROR(parse_signature(stmt.macro.get()));
  RETURN_IF_ERROR(parse_macro_body("endmacro", stmt.macro.get()));
  return stmt;
}

Result<Stmt> Parser::parse_call_block(Stmt stmt) {
  stmt.kind = Stmt::Kind::kCall;
  stmt.macro = std::make_unique<MacroDefinition>();
  stmt.macro->name = "caller";
  if (current().is_operator("(")) RETURN_IF_ERROR(parse_signature(stmt.macro.get()));
  ASSIGN_OR_RETURN(stmt.value, parse_expression());
  if (stmt.value->kind != Expr::Kind::kCall) {
    return fail_at(stmt.line, "{% call %} needs a call of a macro");
  }
  RETURN_IF_ERROR(parse_macro_body("endcall", stmt.macro.get()));
  return stmt;
}

Result<Stmt> Parser::parse_filter_block(Stmt stmt) {
  stmt.kind = Stmt::Kind::kFilter;
  ASSIGN_OR_RETURN(stmt.filter, parse_filters(nullptr, true));
  RETURN_IF_ERROR(parse_block_body({"endfilter"}, &stmt.frames.emplace_back().body).status());
  return stmt;
}

// transformers' {% generation %} marks what the assistant says, and prints it.
Result<Stmt> Parser::parse_generation(Stmt stmt) {
  stmt.kind = Stmt::Kind::kScope;
  const int loops = std::exchange(loops_, 0);
  RETURN_IF_ERROR(parse_block_body({"endgeneration"}, &stmt.frames.emplace_back().body).status());
  loops_ = loops;
  return stmt;
}

Result<Stmt> Parser::parse_jump(Stmt stmt, Stmt::Kind kind) {
  if (loops_ == 0) return fail_at(stmt.line, "break and continue must stand in a for loop");
  stmt.kind = kind;
  return stmt;
}

Result<ExprPtr> Parser::parse_targets(Target allowed, std::string_view end) {
  const int line = current().line;
  std::vector<ExprPtr> targets;
  bool is_tuple = false;
  while (true) {
    if (current().is_operator("=") || at_tuple_end(end)) break;
    ASSIGN_OR_RETURN(ExprPtr target, parse_target(allowed));
    targets.push_back(std::move(target));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (targets.empty()) return unexpected();
  if (!is_tuple) return std::move(targets[0]);
  return make(Expr::Kind::kTuple, line, std::move(targets));
}

Result<ExprPtr> Parser::parse_target(Target allowed) {
  const Level level(&depth_);
  RETURN_IF_ERROR(check_depth());
  if (skip_operator("(")) {
    ASSIGN_OR_RETURN(ExprPtr inner, parse_targets(Target::kVariables, {}));
    RETURN_IF_ERROR(expect_operator(")"));
    return inner;
  }
  const int line = current().line;
  ASSIGN_OR_RETURN(const std::string_view name, expect_name());
  if (is_one_of(name, {"true", "false", "none", "True", "False", "None"})) {
    return fail_at(line, "cannot assign to '" + std::string(name) + "'");
  }
  ExprPtr target = make_name(name, line);
  if (allowed == Target::kNamespaceToo && skip_operator(".")) {
    target->kind = Expr::Kind::kNamespaceAttribute;
    ASSIGN_OR_RETURN(target->text, expect_name());
  } else if (name == "loop" && allowed == Target::kVariables) {
    return fail_at(line, "cannot assign to 'loop' in a for loop");
  }
  return target;
}

Status parse(const TemplateLimits& limits, SyntaxTree* tree) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenize(tree->source, &tree->strings));
  return Parser(limits, std::move(tokens), tree).parse_template();
}

}  // namespace skein::jinja
