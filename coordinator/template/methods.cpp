#include <cmath>
#include <span>

#include "coordinator/template/functions.h"
#include "coordinator/template/string_methods.h"
#include "coordinator/template/text.h"

namespace skein::jinja {
namespace {

Result<Value> view_of(const Call& call, View::Of of) {
  ASSIGN_OR_RETURN(const View* const view, call.run.make(View{.dict = call.self.dict, .of = of}));
  Value value;
  value.kind = Kind::kView;
  value.view = view;
  return value;
}

template <View::Of of>
Result<Value> dict_view(const Call& call) {
  return view_of(call, of);
}

Result<Value> dict_get(const Call& call) {
  ASSIGN_OR_RETURN(const Value* const found, find(call.run, *call.self.dict, *call.get(0)));
  return found != nullptr ? *found : call.value(1, Value::none());
}

Result<Value> copy(const Call& call) { return call.self; }

Result<Value> sequence_count(const Call& call) {
  ASSIGN_OR_RETURN(const Value list, to_list(call.run, call.self));
  int64_t times = 0;
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const bool same, equal(call.run, list.items[i], *call.get(0)));
    times += same ? 1 : 0;
  }
  return Value::integer_of(times);
}

Result<Value> sequence_index(const Call& call) {
  ASSIGN_OR_RETURN(const Value list, to_list(call.run, call.self));
  const auto size = static_cast<int64_t>(list.size);
  ASSIGN_OR_RETURN(int64_t start, call.integer(1, 0));
  ASSIGN_OR_RETURN(int64_t stop, call.integer(2, size));
  if (start < 0) start = std::max<int64_t>(start + size, 0);
  if (stop < 0) stop += size;
  for (int64_t i = start; i < std::min(stop, size); ++i) {
    ASSIGN_OR_RETURN(const bool same, equal(call.run, list.items[i], *call.get(0)));
    if (same) return Value::integer_of(i);
  }
  return call.run.error("the value is not in the list");
}

Result<Value> is_integer(const Call& call) {
  return Value::boolean_of(std::isfinite(call.self.real) &&
                           call.self.real == std::floor(call.self.real));
}

Result<Value> cycler_next(const Call& call) {
  Cycler& cycler = *call.self.cycler;
  const Value current = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.size;
  return current;
}

Result<Value> cycler_reset(const Call& call) {
  call.self.cycler->position = 0;
  return Value::none();
}

constexpr Callable kDictMethods[] = {
    {"get", dict_get, 1, {"(key)", "(default)"}},
    {"items", dict_view<View::Of::kItems>},
    {"keys", dict_view<View::Of::kKeys>},
    {"values", dict_view<View::Of::kValues>},
    {"copy", copy},
};
constexpr Callable kListMethods[] = {
    {"count", sequence_count, 1, {"(value)"}},
    {"index", sequence_index, 1, {"(value)", "(start)", "(stop)"}},
    {"copy", copy},
};
constexpr Callable kTupleMethods[] = {
    {"count", sequence_count, 1, {"(value)"}},
    {"index", sequence_index, 1, {"(value)", "(start)", "(stop)"}},
};
constexpr Callable kRangeMethods[] = {
    {"count", sequence_count, 1, {"(value)"}},
    {"index", sequence_index, 1, {"(value)"}},
};
constexpr Callable kFloatMethods[] = {{"is_integer", is_integer}};
constexpr Callable kCyclerMethods[] = {{"next", cycler_next}, {"reset", cycler_reset}};
constexpr Callable kLoopMethods[] = {{"cycle", loop_cycle, 0, {}, true},
                                     {"changed", loop_changed, 0, {}, true}};

std::span<const Callable> methods_of(Kind kind) {
  switch (kind) {
    case Kind::kString: return string_methods();
    case Kind::kDict: return kDictMethods;
    case Kind::kList: return kListMethods;
    case Kind::kTuple: return kTupleMethods;
    case Kind::kRange: return kRangeMethods;
    case Kind::kFloat: return kFloatMethods;
    case Kind::kCycler: return kCyclerMethods;
    case Kind::kLoop: return kLoopMethods;
    default: return {};
  }
}

}  // namespace

int find_method(Kind kind, std::string_view name) { return find_callable(methods_of(kind), name); }

Result<Value> call_method(Run& run, const Method& method, const CallArguments& arguments) {
  return invoke(run, methods_of(method.self.kind)[method.id], method.self, arguments);
}

}  // namespace skein::jinja
