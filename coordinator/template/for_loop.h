#pragma once

#include <deque>
#include <optional>

#include "coordinator/template/ast.h"
#include "coordinator/template/functions.h"
#include "coordinator/template/run.h"

namespace skein::jinja {

class Evaluator;

// A running for loop: what comes next, and what the template sees as `loop`. Items are fetched as
// late as in Jinja, because the loop's filter may depend on what the body does.
class ForLoop {
 public:
  // `iterable` is what the loop walks over; fails if it is none.
  static Result<ForLoop> begin(Evaluator& evaluator, Run& run, const Stmt& stmt,
                               const Value& iterable);

  // The next item, or nothing at the end.
  Result<std::optional<Value>> next();

  // loop.<name>, and the methods of loop
  Result<Value> attribute(std::string_view name);
  Result<Value> cycle(const CallArguments& arguments) const;
  Result<Value> changed(const CallArguments& arguments);

 private:
  ForLoop(Evaluator& evaluator, Run& run, const Stmt& stmt)
      : evaluator_(evaluator), run_(run), stmt_(stmt) {}

  Result<std::optional<Value>> fetch();
  Result<bool> peek();  // whether there is a next item; it is ahead_.front() then
  Result<int64_t> length();

  Evaluator& evaluator_;
  Run& run_;
  const Stmt& stmt_;
  Iterator own_{};                 // over what is no iterator itself
  Iterator* source_ = nullptr;     // null: own_
  std::deque<Value> ahead_;        // fetched, not yet reached
  std::optional<int64_t> length_;  // once it is known
  int64_t index_ = -1;
  Value previous_, current_;
  std::optional<Value> last_changed_;  // a tuple
};

}  // namespace skein::jinja
