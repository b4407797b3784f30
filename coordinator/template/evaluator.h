#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/template/ast.h"
#include "coordinator/template/functions.h"
#include "coordinator/template/run.h"

namespace skein::jinja {

// The variables of a block that has its own. Looked up along the parents.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<int, Value>> variables;
  bool captured = false;  // a macro was defined in it, so it must outlive its block

  const Value* find(int symbol) const;
  void set(int symbol, const Value& value);
};

// Walks the syntax tree. Single-owner, for one rendering.
class Evaluator {
 public:
  // `variables` has one value per symbol; undefined: not given.
  Evaluator(const SyntaxTree& tree, Run& run, std::vector<Value> variables);

  Result<std::string> render();

  // For ForLoop: binds the loop's target in a scope of its own and evaluates the loop's filter
  // there.
  Result<bool> passes_filter(const Stmt& loop, const Value& item);

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class Block;
  class Capture;

  Result<Flow> exec(const Body& body);
  Result<Flow> exec_frame(const Frame& frame);  // in a scope of its own
  void clear_unset(const Frame& frame);
  Result<Flow> exec(const Stmt& stmt);
  Result<Flow> exec_nested(const Stmt& stmt);
  Result<Flow> exec_if(const Stmt& stmt);
  Result<Flow> exec_for(const Stmt& stmt);
  Result<Flow> exec_loop(const Stmt& stmt, ForLoop* loop, bool* completed);
  Result<Flow> exec_with(const Stmt& stmt);
  Result<Flow> exec_set_block(const Stmt& stmt);
  Result<Flow> exec_filter_block(const Stmt& stmt);
  Status exec_set(const Stmt& stmt);
  Status exec_call_block(const Stmt& stmt);
  Status exec_print(const Stmt& stmt);
  Status write(std::string_view text);
  Status assign(const Expr& target, const Value& value);
  Status assign_attribute(const Expr& target, const Value& value);
  // The output of stmt.frames[0], through stmt.filter if there is one.
  Result<Value> filtered_body(const Stmt& stmt, Flow* flow);

  Result<Value> eval(const Expr& expr);
  Result<Value> eval_nested(const Expr& expr);
  Result<Value> eval_name(const Expr& expr);
  Result<Value> eval_sequence(const Expr& expr);
  Result<Value> eval_dict(const Expr& expr);
  Result<Value> eval_item(const Expr& expr);
  Result<Value> eval_slice(const Expr& expr);
  Result<Value> eval_call(const Expr& expr, const Value* caller);
  Result<Value> eval_filter(const Expr& expr, const Value* piped);
  Result<Value> eval_test(const Expr& expr);
  Result<Value> eval_logic(const Expr& expr);
  Result<Value> eval_concat(const Expr& expr);
  Result<Value> eval_arithmetic(const Expr& expr);
  Result<Value> eval_compare(const Expr& expr);
  Result<Value> eval_conditional(const Expr& expr);
  Status eval_arguments(const Arguments& arguments, CallArguments* out);
  Status eval_stars(const Arguments& arguments, CallArguments* out);

  Result<Value> make_macro(const MacroDefinition& definition);
  Result<Value> call(const Value& callee, const CallArguments& arguments);
  Result<Value> call_macro(const Macro& macro, const CallArguments& arguments);
  Result<Value> run_macro(const Macro& macro, const CallArguments& arguments);
  Status bind_macro(const MacroDefinition& definition, const CallArguments& arguments);
  Status bind_extras(const MacroDefinition& definition, const CallArguments& arguments);

  const SyntaxTree& tree_;
  Run& run_;
  std::vector<Value> variables_;
  std::deque<Scope> scopes_;  // all there ever were: macros point at them
  std::vector<Scope*> free_scopes_;
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  int calls_ = 0;  // macros being called
};

// A scope for as long as it lives.
class Evaluator::Block {
 public:
  Block(Evaluator& evaluator, Scope* parent) : evaluator_(evaluator), outer_(evaluator.scope_) {
    auto& free = evaluator_.free_scopes_;
    if (free.empty()) free.push_back(&evaluator_.scopes_.emplace_back());
    scope_ = free.back();
    free.pop_back();
    scope_->parent = parent;
    evaluator_.scope_ = scope_;
  }
  explicit Block(Evaluator& evaluator) : Block(evaluator, evaluator.scope_) {}
  ~Block() {
    evaluator_.scope_ = outer_;
    if (scope_->captured) return;
    scope_->variables.clear();
    evaluator_.free_scopes_.push_back(scope_);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

 private:
  Evaluator& evaluator_;
  Scope* outer_;
  Scope* scope_;
};

// Redirects the output for as long as it lives.
class Evaluator::Capture {
 public:
  explicit Capture(Evaluator& evaluator) : evaluator_(evaluator), outer_(evaluator.out_) {
    evaluator.out_ = &text_;
  }
  ~Capture() { evaluator_.out_ = outer_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  const std::string& text() const { return text_; }

 private:
  Evaluator& evaluator_;
  std::string* outer_;
  std::string text_;
};

}  // namespace skein::jinja
