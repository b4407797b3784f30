#include "coordinator/template/tests.h"

#include "coordinator/template/filters.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/string_methods.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

Value yes_or_no(bool value) { return Value::boolean_of(value); }

template <Kind kind>
Result<Value> is_kind(const Call& call) {
  return yes_or_no(call.self.is(kind));
}

Result<Value> is_defined(const Call& call) { return yes_or_no(!call.self.is_undefined()); }
Result<Value> is_number(const Call& call) { return yes_or_no(call.self.is_number()); }
Result<Value> is_true(const Call& call) {
  return yes_or_no(call.self.is(Kind::kBool) && call.self.boolean);
}
Result<Value> is_false(const Call& call) {
  return yes_or_no(call.self.is(Kind::kBool) && !call.self.boolean);
}
Result<Value> is_iterable(const Call& call) {
  return yes_or_no(iterable(call.self) || call.self.is(Kind::kLoop));
}
Result<Value> is_escaped(const Call& call) {
  return yes_or_no(call.self.is_string() && call.self.marked);
}
Result<Value> is_same(const Call& call) { return yes_or_no(identical(call.self, *call.get(0))); }

Result<Value> is_sequence(const Call& call) {
  return yes_or_no(has_length(call.self) && !call.self.is(Kind::kView));
}

Result<Value> is_callable(const Call& call) {
  switch (call.self.kind) {
    case Kind::kUndefined:
    case Kind::kLoop:
    case Kind::kMacro:
    case Kind::kFunction:
    case Kind::kMethod:
    case Kind::kJoiner: return yes_or_no(true);
    default: return yes_or_no(false);
  }
}

Result<Value> is_lower_case(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, to_text(call.run, call.self));
  RETURN_IF_ERROR(call.run.charge_bytes(8 * text.size));
  return yes_or_no(all_cased(text.text(), is_lower, is_upper));
}

Result<Value> is_upper_case(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, to_text(call.run, call.self));
  RETURN_IF_ERROR(call.run.charge_bytes(8 * text.size));
  return yes_or_no(all_cased(text.text(), is_upper, is_lower));
}

// value % divisor == remainder
Result<Value> has_remainder(const Call& call, const Value& divisor, int64_t remainder) {
  ASSIGN_OR_RETURN(const Value actual, arithmetic(call.run, Operator::kModulo, call.self, divisor));
  ASSIGN_OR_RETURN(const bool same, equal(call.run, actual, Value::integer_of(remainder)));
  return yes_or_no(same);
}

Result<Value> is_odd(const Call& call) { return has_remainder(call, Value::integer_of(2), 1); }
Result<Value> is_even(const Call& call) { return has_remainder(call, Value::integer_of(2), 0); }
Result<Value> is_divisible(const Call& call) { return has_remainder(call, *call.get(0), 0); }

template <Operator op>
Result<Value> compares(const Call& call) {
  ASSIGN_OR_RETURN(const bool holds, compare(call.run, op, call.self, *call.get(0)));
  return yes_or_no(holds);
}

Result<Value> is_filter(const Call& call) {
  return yes_or_no(call.self.is_string() && find_filter(call.self.text()) >= 0);
}

Result<Value> is_test(const Call& call) {
  return yes_or_no(call.self.is_string() && find_test(call.self.text()) >= 0);
}

constexpr Callable kTests[] = {
    {"defined", is_defined},
    {"undefined", is_kind<Kind::kUndefined>},
    {"none", is_kind<Kind::kNone>},
    {"boolean", is_kind<Kind::kBool>},
    {"true", is_true},
    {"false", is_false},
    {"integer", is_kind<Kind::kInt>},
    {"float", is_kind<Kind::kFloat>},
    {"number", is_number},
    {"string", is_kind<Kind::kString>},
    {"mapping", is_kind<Kind::kDict>},
    {"sequence", is_sequence},
    {"iterable", is_iterable},
    {"callable", is_callable},
    {"sameas", is_same, 1, {"other"}},
    {"escaped", is_escaped},
    {"lower", is_lower_case},
    {"upper", is_upper_case},
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", is_divisible, 1, {"num"}},
    {"in", compares<Operator::kIn>, 1, {"seq"}},
    {"==", compares<Operator::kEqual>, 1, {"(other)"}},
    {"eq", compares<Operator::kEqual>, 1, {"(other)"}},
    {"equalto", compares<Operator::kEqual>, 1, {"(other)"}},
    {"!=", compares<Operator::kNotEqual>, 1, {"(other)"}},
    {"ne", compares<Operator::kNotEqual>, 1, {"(other)"}},
    {">", compares<Operator::kGreater>, 1, {"(other)"}},
    {"gt", compares<Operator::kGreater>, 1, {"(other)"}},
    {"greaterthan", compares<Operator::kGreater>, 1, {"(other)"}},
    {">=", compares<Operator::kGreaterEqual>, 1, {"(other)"}},
    {"ge", compares<Operator::kGreaterEqual>, 1, {"(other)"}},
    {"<", compares<Operator::kLess>, 1, {"(other)"}},
    {"lt", compares<Operator::kLess>, 1, {"(other)"}},
    {"lessthan", compares<Operator::kLess>, 1, {"(other)"}},
    {"<=", compares<Operator::kLessEqual>, 1, {"(other)"}},
    {"le", compares<Operator::kLessEqual>, 1, {"(other)"}},
    {"filter", is_filter},
    {"test", is_test},
};

}  // namespace

int find_test(std::string_view name) { return find_callable(kTests, name); }

std::string no_test(std::string_view name) {
  return "there is no test '" + std::string(name.substr(0, 100)) + "'";
}

Result<bool> apply_test(Run& run, int test, std::string_view name, const Value& value,
                        const CallArguments& arguments) {
  if (test < 0) return run.error(no_test(name));
  ASSIGN_OR_RETURN(const Value holds, invoke(run, kTests[test], value, arguments));
  return truth(holds);
}

}  // namespace skein::jinja
