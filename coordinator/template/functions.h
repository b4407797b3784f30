#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/template/run.h"
#include "coordinator/template/value.h"

// What templates can call: filters, tests, methods and global functions.

namespace skein::jinja {

struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> keywords;
};

constexpr size_t kParametersMax = 5;

// One call of a built-in: its arguments, bound to the parameters.
struct Call {
  Run& run;
  const Value& self;  // the filtered or tested value, the method's object; undefined for globals
  const CallArguments& arguments;
  std::array<const Value*, kParametersMax> bound{};  // null: not given

  const Value* get(size_t parameter) const { return bound[parameter]; }
  Value value(size_t parameter, const Value& otherwise) const {
    return bound[parameter] != nullptr ? *bound[parameter] : otherwise;
  }
  bool flag(size_t parameter, bool otherwise = false) const {
    return bound[parameter] != nullptr ? truth(*bound[parameter]) : otherwise;
  }
  // Fail if the argument is of another type.
  Result<int64_t> integer(size_t parameter, int64_t otherwise) const;
  Result<int64_t> integer_or_none(size_t parameter,
                                  int64_t otherwise) const;  // none counts as not given
  Result<std::string_view> string(size_t parameter, std::string_view otherwise) const;
};

using Builtin = Result<Value> (*)(const Call& call);

struct Callable {
  std::string_view name;
  Builtin body;
  size_t required = 0;
  // The name of a parameter that can only be given by position is in parentheses.
  std::array<std::string_view, kParametersMax> parameters{};
  bool variadic = false;  // takes any arguments, unbound
  bool lazy = false;      // gives an iterator: an error of the body counts only when it is walked
};

// Binds the arguments and calls. Fails for too many, unknown or missing ones.
Result<Value> invoke(Run& run, const Callable& callable, const Value& self,
                     const CallArguments& arguments);
int find_callable(std::span<const Callable> table, std::string_view name);

// The id of a method of that kind of value, or -1.
int find_method(Kind kind, std::string_view name);
Result<Value> call_method(Run& run, const Method& method, const CallArguments& arguments);

// The id of a global function, or -1.
int find_global(std::string_view name);
Result<Value> call_global(Run& run, int id, const CallArguments& arguments);

// loop.<name>
Result<Value> loop_attribute(Run& run, const Value& loop, std::string_view name);
Status append_loop(Run& run, const Value& loop, std::string* out);
Result<Value> loop_cycle(const Call& call);
Result<Value> loop_changed(const Call& call);

}  // namespace skein::jinja
