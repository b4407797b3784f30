#include "coordinator/template/functions.h"

#include <algorithm>

namespace skein::jinja {
namespace {

Status bind_keyword(const Callable& callable, std::string_view name, const Value& value,
                    Call* call) {
  const auto at = std::find(callable.parameters.begin(), callable.parameters.end(), name);
  const std::string called = "'" + std::string(callable.name) + "'";
  if (at == callable.parameters.end() || name.empty()) {
    return call->run.error(called + " has no argument named '" + std::string(name.substr(0, 100)) +
                           "'");
  }
  const Value*& slot = call->bound[at - callable.parameters.begin()];
  if (slot != nullptr) {
    return call->run.error(called + " got two values for '" + std::string(name.substr(0, 100)) +
                           "'");
  }
  slot = &value;
  return {};
}

Status bind(const Callable& callable, Call* call) {
  const auto& parameters = callable.parameters;
  const size_t count = static_cast<size_t>(
      std::find_if(parameters.begin(), parameters.end(), [](auto name) { return name.empty(); }) -
      parameters.begin());
  const auto& positional = call->arguments.positional;
  const std::string called = "'" + std::string(callable.name) + "'";
  if (positional.size() > count) {
    return call->run.error(called + " takes at most " + std::to_string(count) + " arguments");
  }
  for (size_t i = 0; i < positional.size(); ++i) call->bound[i] = &positional[i];
  for (const auto& [name, value] : call->arguments.keywords) {
    RETURN_IF_ERROR(bind_keyword(callable, name, value, call));
  }
  for (size_t i = 0; i < callable.required; ++i) {
    if (call->bound[i] == nullptr) {
      return call->run.error(called + " needs the argument " + std::string(parameters[i]));
    }
  }
  return {};
}

}  // namespace

Result<int64_t> Call::integer(size_t parameter, int64_t otherwise) const {
  const Value* const value = bound[parameter];
  if (value == nullptr) return otherwise;
  RETURN_IF_ERROR(value->is_integral()
                      ? Status()
                      : run.error("expected an integer instead of a value of type " +
                                  std::string(value->type_name())));
  return value->as_integer();
}

Result<int64_t> Call::integer_or_none(size_t parameter, int64_t otherwise) const {
  const Value* const value = bound[parameter];
  return value != nullptr && value->is_none() ? otherwise : integer(parameter, otherwise);
}

Result<std::string_view> Call::string(size_t parameter, std::string_view otherwise) const {
  const Value* const value = bound[parameter];
  if (value == nullptr) return otherwise;
  RETURN_IF_ERROR(value->is_string() ? Status()
                                     : run.error("expected a string instead of a value of type " +
                                                 std::string(value->type_name())));
  return value->text();
}

Result<Value> invoke(Run& run, const Callable& callable, const Value& self,
                     const CallArguments& arguments) {
  Call call{.run = run, .self = self, .arguments = arguments};
  RETURN_IF_ERROR(run.charge(1));
  if (!callable.variadic) RETURN_IF_ERROR(bind(callable, &call));
  auto result = callable.body(call);
  if (result.ok() || !callable.lazy || run.exhausted()) return result;
  return run.failing_iterator({}, result.status());
}

int find_callable(std::span<const Callable> table, std::string_view name) {
  const auto at = std::find_if(table.begin(), table.end(),
                               [&](const auto& entry) { return entry.name == name; });
  return at == table.end() ? -1 : static_cast<int>(at - table.begin());
}

}  // namespace skein::jinja
