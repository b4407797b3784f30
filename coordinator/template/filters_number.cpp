#include <charconv>
#include <cmath>
#include <optional>

#include "coordinator/template/filters.h"
#include "coordinator/template/format.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

// Without underscores between digits; nothing if they stand elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || text[i - 1] == '_') {
      return std::nullopt;
    }
  }
  return out;
}

enum class Parsed : uint8_t { kNumber, kOverflow, kNothing };

// int(text, base)
Parsed parse_int(std::string_view text, int base, int64_t* value) {
  text = strip_left(strip_right(text));
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const char letter = text.size() > 2 && text[0] == '0' ? static_cast<char>(text[1] | 0x20) : '\0';
  const int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
  if (prefix != 0 && (base == 0 || base == prefix)) {
    base = prefix;
    text.remove_prefix(text[2] == '_' ? 3 : 2);
  }
  if (base == 0) {
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != text.npos) {
      return Parsed::kNothing;
    }
    base = 10;
  }
  const auto digits = without_underscores(text);
  if (!digits || digits->empty() || (*digits)[0] == '-') return Parsed::kNothing;
  const std::string signed_digits = (negative ? "-" : "") + *digits;
  const char* const end = signed_digits.data() + signed_digits.size();
  const auto [stop, error] = std::from_chars(signed_digits.data(), end, *value, base);
  if (stop != end || error == std::errc::invalid_argument) return Parsed::kNothing;
  return error == std::errc() ? Parsed::kNumber : Parsed::kOverflow;
}

// float(text)
std::optional<double> parse_real(std::string_view text) {
  text = strip_left(strip_right(text));
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.empty() || text[0] == '-') return std::nullopt;
  const std::string lower = to_lower(text);
  double value = 0;
  if (lower == "inf" || lower == "infinity") {
    value = HUGE_VAL;
  } else if (lower == "nan") {
    value = NAN;
  } else {
    const bool digit_first = (lower[0] >= '0' && lower[0] <= '9') || lower[0] == '.';
    const auto digits = without_underscores(lower);
    if (!digit_first || !digits) return std::nullopt;
    const char* const end = digits->data() + digits->size();
    const auto [stop, error] = std::from_chars(digits->data(), end, value);
    if (stop != end || error == std::errc::invalid_argument) return std::nullopt;
    if (error != std::errc()) {
      value = digits->find("e-") == digits->npos ? HUGE_VAL : 0;  // out of range
    }
  }
  return negative ? -value : value;
}

Result<Value> truncated(Run& run, double value) {
  if (!(std::fabs(value) < 9.2e18)) return run.error("a number is out of range (64 bits)");
  return Value::integer_of(static_cast<int64_t>(value));
}

// int(float(text)), as the filter tries when int(text) does not work.
Result<Value> through_real(Run& run, std::string_view text, const Value& otherwise) {
  const std::optional<double> real = parse_real(text);
  if (!real || !std::isfinite(*real)) return otherwise;
  return truncated(run, *real);
}

}  // namespace

Result<Value> filter_int(const Call& call) {
  Run& run = call.run;
  const Value& value = call.self;
  const Value otherwise = call.value(0, Value::integer_of(0));
  RETURN_IF_ERROR(check_defined(run, value));
  if (value.is_integral()) return Value::integer_of(value.as_integer());
  if (value.is(Kind::kFloat)) {
    return std::isnan(value.real) ? otherwise : truncated(run, value.real);
  }
  if (!value.is_string()) return otherwise;
  RETURN_IF_ERROR(run.charge_bytes(4 * value.size));
  ASSIGN_OR_RETURN(const int64_t base, call.integer(1, 10));
  int64_t integer = 0;
  const bool valid_base = base == 0 || (base >= 2 && base <= 36);
  switch (valid_base ? parse_int(value.text(), static_cast<int>(base), &integer)
                     : Parsed::kNothing) {
    case Parsed::kNumber: return Value::integer_of(integer);
    case Parsed::kOverflow: return run.error("an integer is out of range (64 bits)");
    case Parsed::kNothing: break;
  }
  return through_real(run, value.text(), otherwise);
}

Result<Value> filter_float(const Call& call) {
  const Value otherwise = call.value(0, Value::real_of(0));
  RETURN_IF_ERROR(check_defined(call.run, call.self));
  if (call.self.is_number()) return Value::real_of(call.self.as_real());
  if (!call.self.is_string()) return otherwise;
  RETURN_IF_ERROR(call.run.charge_bytes(4 * call.self.size));
  const std::optional<double> real = parse_real(call.self.text());
  return real ? Value::real_of(*real) : otherwise;
}

Result<Value> filter_abs(const Call& call) {
  RETURN_IF_ERROR(check_defined(call.run, call.self));
  if (call.self.is(Kind::kFloat)) return Value::real_of(std::fabs(call.self.real));
  if (!call.self.is_integral()) return call.run.error("abs needs a number");
  return call.self.as_integer() < 0 ? negate(call.run, call.self) : plus(call.run, call.self);
}

Result<Value> filter_round(const Call& call) {
  Run& run = call.run;
  const Value& value = call.self;
  RETURN_IF_ERROR(check_defined(run, value));
  ASSIGN_OR_RETURN(const std::string_view method, call.string(1, "common"));
  if (!value.is_number()) return run.error("round needs a number");
  const bool to_integer = call.get(0) != nullptr && call.get(0)->is_none() && method == "common";
  if (to_integer && value.is(Kind::kFloat)) return truncated(run, round_real(value.real, 0));
  ASSIGN_OR_RETURN(const int64_t precision, to_integer ? Result<int64_t>(0) : call.integer(0, 0));
  if (method == "common") {
    if (value.is(Kind::kFloat)) return Value::real_of(round_real(value.real, precision));
    if (precision >= 0) return plus(run, value);
    return truncated(run, round_real(value.as_real(), precision));
  }
  if (method != "ceil" && method != "floor") {
    return run.error("round: the method must be common, ceil or floor");
  }
  if (precision < -300 || precision > 300) return run.error("round: the precision is out of range");
  const double unit = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.as_real() * unit;
  if (!std::isfinite(scaled)) return run.error("a number is out of range");
  return Value::real_of((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Result<Value> filter_sum(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::parse(run, call.value(0, Value::none())));
  Value sum = call.value(1, Value::integer_of(0));
  if (sum.is_string()) return run.error("sum does not work on strings");
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const Value item, path.get(run, list.items[i]));
    ASSIGN_OR_RETURN(sum, arithmetic(run, Operator::kAdd, sum, item));
  }
  return sum;
}

}  // namespace skein::jinja
