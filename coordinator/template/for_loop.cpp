#include "coordinator/template/for_loop.h"

#include "coordinator/template/evaluator.h"
#include "coordinator/template/functions.h"

namespace skein::jinja {
namespace {

Result<ForLoop*> running(Run& run, const Value& loop) {
  if (loop.loop->running == nullptr) return run.error("the loop is over");
  return loop.loop->running;
}

}  // namespace

Result<ForLoop> ForLoop::begin(Evaluator& evaluator, Run& run, const Stmt& stmt,
                               const Value& iterable) {
  ForLoop loop(evaluator, run, stmt);
  if (iterable.is(Kind::kIterator)) {
    loop.source_ = iterable.iterator;
    return loop;
  }
  ASSIGN_OR_RETURN(const Value list, to_list(run, iterable));
  loop.own_ = {.items = list.items, .size = list.size, .position = 0, .error = -1};
  if (!stmt.filter) loop.length_ = static_cast<int64_t>(list.size);
  return loop;
}

Result<std::optional<Value>> ForLoop::fetch() {
  Iterator& source = source_ != nullptr ? *source_ : own_;
  while (source.position < source.size) {
    RETURN_IF_ERROR(run_.charge(1));
    const Value item = source.items[source.position++];
    if (!stmt_.filter) return std::optional<Value>(item);
    ASSIGN_OR_RETURN(const bool passes, evaluator_.passes_filter(stmt_, item));
    if (passes) return std::optional<Value>(item);
  }
  if (source.error >= 0) return run_.deferred(source.error);
  return std::optional<Value>();
}

Result<bool> ForLoop::peek() {
  if (!ahead_.empty()) return true;
  ASSIGN_OR_RETURN(const std::optional<Value> item, fetch());
  if (item) ahead_.push_back(*item);
  return item.has_value();
}

Result<std::optional<Value>> ForLoop::next() {
  ASSIGN_OR_RETURN(const bool more, peek());
  if (!more) return std::optional<Value>();
  previous_ = current_;
  current_ = ahead_.front();
  ahead_.pop_front();
  ++index_;
  return std::optional<Value>(current_);
}

Result<int64_t> ForLoop::length() {
  if (!length_) {
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<Value> item, fetch());
      if (!item) break;
      RETURN_IF_ERROR(run_.reserve(sizeof(Value)));
      ahead_.push_back(*item);
    }
    length_ = index_ + 1 + static_cast<int64_t>(ahead_.size());
  }
  return *length_;
}

Result<Value> ForLoop::attribute(std::string_view name) {
  if (name == "index") return Value::integer_of(index_ + 1);
  if (name == "index0") return Value::integer_of(index_);
  if (name == "first") return Value::boolean_of(index_ == 0);
  if (name == "depth") return Value::integer_of(1);
  if (name == "depth0") return Value::integer_of(0);
  if (name == "last") {
    ASSIGN_OR_RETURN(const bool more, peek());
    return Value::boolean_of(!more);
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    ASSIGN_OR_RETURN(const int64_t size, length());
    return Value::integer_of(name == "length" ? size
                                              : size - index_ - (name == "revindex0" ? 1 : 0));
  }
  if (name == "previtem") {
    return index_ == 0 ? Value::undefined_because("there is no previous item") : previous_;
  }
  if (name == "nextitem") {
    ASSIGN_OR_RETURN(const bool more, peek());
    return more ? ahead_.front() : Value::undefined_because("there is no next item");
  }
  return Value::undefined_because("a loop has no such attribute");
}

Result<Value> ForLoop::cycle(const CallArguments& arguments) const {
  const auto& items = arguments.positional;
  if (items.empty()) return run_.error("loop.cycle needs items");
  return items[static_cast<size_t>(index_) % items.size()];
}

Result<Value> ForLoop::changed(const CallArguments& arguments) {
  ASSIGN_OR_RETURN(const Value values, run_.sequence(Kind::kTuple, arguments.positional));
  if (last_changed_) {
    ASSIGN_OR_RETURN(const bool same, equal(run_, *last_changed_, values));
    if (same) return Value::boolean_of(false);
  }
  last_changed_ = values;
  return Value::boolean_of(true);
}

Result<Value> loop_attribute(Run& run, const Value& loop, std::string_view name) {
  if (const int method = find_method(Kind::kLoop, name); method >= 0) {
    ASSIGN_OR_RETURN(const Method* const bound, run.make(Method{.self = loop, .id = method}));
    Value value;
    value.kind = Kind::kMethod;
    value.method = bound;
    return value;
  }
  ASSIGN_OR_RETURN(ForLoop* const state, running(run, loop));
  return state->attribute(name);
}

Status append_loop(Run& run, const Value& loop, std::string* out) {
  ASSIGN_OR_RETURN(ForLoop* const state, running(run, loop));
  ASSIGN_OR_RETURN(const Value index, state->attribute("index"));
  ASSIGN_OR_RETURN(const Value size, state->attribute("length"));
  *out +=
      "<LoopContext " + std::to_string(index.integer) + "/" + std::to_string(size.integer) + ">";
  return {};
}

Result<Value> loop_cycle(const Call& call) {
  ASSIGN_OR_RETURN(ForLoop* const state, running(call.run, call.self));
  return state->cycle(call.arguments);
}

Result<Value> loop_changed(const Call& call) {
  ASSIGN_OR_RETURN(ForLoop* const state, running(call.run, call.self));
  return state->changed(call.arguments);
}

}  // namespace skein::jinja
