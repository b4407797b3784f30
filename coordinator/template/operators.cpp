#include "coordinator/template/operators.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "coordinator/template/format.h"
#include "coordinator/template/search.h"
#include "coordinator/template/text.h"

namespace skein::jinja {
namespace {

std::string_view symbol_of(Operator op) {
  switch (op) {
    case Operator::kAdd: return "+";
    case Operator::kSubtract: return "-";
    case Operator::kMultiply: return "*";
    case Operator::kDivide: return "/";
    case Operator::kFloorDivide: return "//";
    case Operator::kModulo: return "%";
    case Operator::kPower: return "**";
    case Operator::kEqual: return "==";
    case Operator::kNotEqual: return "!=";
    case Operator::kLess: return "<";
    case Operator::kLessEqual: return "<=";
    case Operator::kGreater: return ">";
    case Operator::kGreaterEqual: return ">=";
    case Operator::kIn: return "in";
    case Operator::kNotIn: return "not in";
  }
  return "";
}

Status mismatch(Run& run, Operator op, const Value& left, const Value& right) {
  RETURN_IF_ERROR(check_defined(run, left));
  RETURN_IF_ERROR(check_defined(run, right));
  return run.error("'" + std::string(symbol_of(op)) + "' does not work on values of types " +
                   std::string(left.type_name()) + " and " + std::string(right.type_name()));
}

Status overflow(Run& run) { return run.error("an integer is out of range (64 bits)"); }

Result<Value> checked(Run& run, const std::optional<int64_t>& result) {
  if (!result) return overflow(run);
  return Value::integer_of(*result);
}

Result<Value> power_of_integers(Run& run, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return run.error("0 cannot be raised to a negative power");
    return Value::real_of(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base >= -1 && base <= 1) {
    return Value::integer_of(base < 0 && exponent % 2 == 0 ? 1 : exponent == 0 ? 1 : base);
  }
  std::optional<int64_t> result = 1;
  for (int64_t i = 0; i < exponent && result; ++i) {
    result = checked_mul(*result, base);  // overflows by 63
  }
  return checked(run, result);
}

Result<Value> integer_arithmetic(Run& run, Operator op, int64_t a, int64_t b) {
  int64_t difference = 0;
  switch (op) {
    case Operator::kAdd: return checked(run, checked_add(a, b));
    case Operator::kSubtract:
      if (__builtin_sub_overflow(a, b, &difference)) return overflow(run);
      return Value::integer_of(difference);
    case Operator::kMultiply: return checked(run, checked_mul(a, b));
    case Operator::kPower: return power_of_integers(run, a, b);
    default: break;
  }
  if (b == 0) return run.error("division by zero");
  if (op == Operator::kDivide) {
    return Value::real_of(
        static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
  }
  if (b == -1) {  // INT64_MIN / -1 overflows
    if (op == Operator::kModulo) return Value::integer_of(0);
    return integer_arithmetic(run, Operator::kSubtract, 0, a);
  }
  const int64_t quotient = a / b;
  const int64_t remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == Operator::kFloorDivide) return Value::integer_of(quotient - (adjust ? 1 : 0));
  return Value::integer_of(remainder + (adjust ? b : 0));
}

// CPython's float_divmod.
Value floor_divide_or_modulo(Operator op, double a, double b) {
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == Operator::kModulo) return Value::real_of(remainder);
  if (quotient == 0) return Value::real_of(std::copysign(0.0, a / b));
  const double floored = std::floor(quotient);
  return Value::real_of(quotient - floored > 0.5 ? floored + 1 : floored);
}

Result<Value> real_arithmetic(Run& run, Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd: return Value::real_of(a + b);
    case Operator::kSubtract: return Value::real_of(a - b);
    case Operator::kMultiply: return Value::real_of(a * b);
    case Operator::kPower: {
      if (a == 0 && b < 0) return run.error("0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(b) && b != std::floor(b)) {
        return run.error("a complex number is not supported");
      }
      const double result = std::pow(a, b);
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
        return run.error("a number is out of range");
      }
      return Value::real_of(result);
    }
    default: break;
  }
  if (b == 0) return run.error("division by zero");
  if (op == Operator::kDivide) return Value::real_of(a / b);
  return floor_divide_or_modulo(op, a, b);
}

Result<Value> add_strings(Run& run, const Value& left, const Value& right) {
  const bool marked = left.marked || right.marked;
  Value a = left;
  Value b = right;
  if (marked) {
    ASSIGN_OR_RETURN(a, escape_html(run, left));
    ASSIGN_OR_RETURN(b, escape_html(run, right));
  }
  RETURN_IF_ERROR(run.charge_bytes(a.size + b.size));
  ASSIGN_OR_RETURN(char* const memory, run.allocate<char>(a.size + b.size));
  std::copy_n(a.chars, a.size, memory);
  std::copy_n(b.chars, b.size, memory + a.size);
  return Value::string({memory, a.size + b.size}, marked);
}

Result<Value> add_sequences(Run& run, const Value& left, const Value& right) {
  RETURN_IF_ERROR(run.charge(static_cast<int64_t>((left.size + right.size) >> 2)));
  RETURN_IF_ERROR(run.reserve((left.size + right.size) * sizeof(Value)));
  std::vector<Value> items(left.items, left.items + left.size);
  items.insert(items.end(), right.items, right.items + right.size);
  return run.sequence(left.kind, items);
}

Result<Value> repeat(Run& run, const Value& value, int64_t times) {
  const size_t count = times <= 0 || value.size == 0 ? 0 : static_cast<size_t>(times);
  const size_t item_bytes = value.is_string() ? 1 : sizeof(Value);
  const auto size = checked_mul(value.size, count);
  const auto bytes = size ? checked_mul(*size, item_bytes) : std::nullopt;
  if (!bytes) return run.reserve(~size_t{0});  // fails
  RETURN_IF_ERROR(run.charge_bytes(*bytes));
  ASSIGN_OR_RETURN(char* const memory, run.allocate<char>(*bytes));
  const char* const source =
      value.is_string() ? value.chars : reinterpret_cast<const char*>(value.items);
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(memory + i * value.size * item_bytes, source, value.size * item_bytes);
  }
  Value result = value;
  result.size = *size;
  if (value.is_string()) {
    result.chars = memory;
  } else {
    result.items = reinterpret_cast<const Value*>(memory);
    result.marked = false;
  }
  return result;
}

// Walks an iterator up to the first equal item only.
Result<bool> iterator_contains(Run& run, Iterator& iterator, const Value& item) {
  while (iterator.position < iterator.size) {
    ASSIGN_OR_RETURN(const bool same, equal(run, iterator.items[iterator.position++], item));
    if (same) return true;
  }
  if (iterator.error >= 0) return run.deferred(iterator.error);
  return false;
}

bool repeatable(const Value& value) { return value.is_string() || value.is_sequence(); }

}  // namespace

Result<Value> arithmetic(Run& run, Operator op, const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    return integer_arithmetic(run, op, left.as_integer(), right.as_integer());
  }
  if (left.is_number() && right.is_number()) {
    return real_arithmetic(run, op, left.as_real(), right.as_real());
  }
  if (op == Operator::kAdd && left.is_string() && right.is_string()) {
    return add_strings(run, left, right);
  }
  if (op == Operator::kAdd && left.is_sequence() && left.kind == right.kind) {
    return add_sequences(run, left, right);
  }
  if (op == Operator::kMultiply && repeatable(left) && right.is_integral()) {
    return repeat(run, left, right.as_integer());
  }
  if (op == Operator::kMultiply && left.is_integral() && repeatable(right)) {
    return repeat(run, right, left.as_integer());
  }
  if (op == Operator::kModulo && left.is_string()) return format_percent(run, left, right);
  return mismatch(run, op, left, right);
}

Result<Value> negate(Run& run, const Value& value) {
  if (value.is(Kind::kFloat)) return Value::real_of(-value.real);
  if (value.is_integral()) {
    return integer_arithmetic(run, Operator::kSubtract, 0, value.as_integer());
  }
  RETURN_IF_ERROR(check_defined(run, value));
  return run.error("'-' does not work on a value of type " + std::string(value.type_name()));
}

Result<Value> plus(Run& run, const Value& value) {
  if (value.is(Kind::kFloat)) return value;
  if (value.is_integral()) return Value::integer_of(value.as_integer());
  RETURN_IF_ERROR(check_defined(run, value));
  return run.error("'+' does not work on a value of type " + std::string(value.type_name()));
}

Result<bool> compare(Run& run, Operator op, const Value& left, const Value& right) {
  const bool nan = (left.is(Kind::kFloat) && std::isnan(left.real)) ||
                   (right.is(Kind::kFloat) && std::isnan(right.real));
  switch (op) {
    case Operator::kIn: return contains(run, right, left);
    case Operator::kNotIn: {
      ASSIGN_OR_RETURN(const bool found, contains(run, right, left));
      return !found;
    }
    case Operator::kEqual: return equal(run, left, right);
    case Operator::kNotEqual: {
      ASSIGN_OR_RETURN(const bool same, equal(run, left, right));
      return !same;
    }
    default: break;
  }
  RETURN_IF_ERROR(check_defined(run, left));
  RETURN_IF_ERROR(check_defined(run, right));
  if (op == Operator::kLess) return less(run, left, right);
  if (op == Operator::kGreater) return less(run, right, left);
  const bool swap = op == Operator::kLessEqual;
  ASSIGN_OR_RETURN(const bool beyond, less(run, swap ? right : left, swap ? left : right));
  return !beyond && !nan;
}

Result<bool> contains(Run& run, const Value& container, const Value& item) {
  switch (container.kind) {
    case Kind::kUndefined: return false;
    case Kind::kString:
      if (!item.is_string()) return mismatch(run, Operator::kIn, item, container);
      RETURN_IF_ERROR(run.charge_bytes(container.size + item.size));
      return find_text(container.text(), item.text()) != std::string_view::npos;
    case Kind::kDict: {
      ASSIGN_OR_RETURN(const Value* const found, find(run, *container.dict, item));
      return found != nullptr;
    }
    case Kind::kRange: {
      if (!item.is_integral()) break;
      const Range& range = *container.range;
      const __int128 distance = static_cast<__int128>(item.as_integer()) - range.start;
      return distance % range.step == 0 && distance / range.step >= 0 &&
             distance / range.step < range.count;
    }
    case Kind::kIterator: return iterator_contains(run, *container.iterator, item);
    default: break;
  }
  if (!iterable(container)) return mismatch(run, Operator::kIn, item, container);
  ASSIGN_OR_RETURN(const Value list, to_list(run, container));
  for (size_t i = 0; i < list.size; ++i) {
    if (identical(list.items[i], item)) return true;
    ASSIGN_OR_RETURN(const bool same, equal(run, list.items[i], item));
    if (same) return true;
  }
  return false;
}

}  // namespace skein::jinja
