#include "coordinator/template/format.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

constexpr int kPrecisionMax = 400;

std::string print_real(double value, int precision, char type, bool alternate) {
  const std::string conversion = std::string(alternate ? "%#.*" : "%.*") + type;
  char buffer[1024];  // 309 digits, a point, kPrecisionMax digits
  const int size = std::snprintf(buffer, sizeof buffer, conversion.c_str(), precision, value);
  return {buffer, static_cast<size_t>(std::min<int>(size, sizeof buffer - 1))};
}

std::string with_sign(std::string digits, bool negative, char sign) {
  if (negative) return "-" + digits;
  return sign == '-' ? digits : sign + digits;
}

void group_digits(char separator, std::string* digits) {
  size_t end = digits->find_first_not_of("0123456789");
  if (end == digits->npos) end = digits->size();
  for (; end > 3; end -= 3) digits->insert(end - 3, 1, separator);
}

Status unknown_type(Run& run, const Value& value, char type) {
  return run.error(std::string("the format '") + type + "' does not work on a value of type " +
                   std::string(value.type_name()));
}

Status append_real(Run& run, double value, const FieldFormat& format, std::string* out) {
  const bool percent = format.type == '%';
  const bool negative = std::signbit(value);
  const double magnitude = std::fabs(percent ? value * 100 : value);
  std::string digits;
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
    if (format.type == 'E' || format.type == 'F' || format.type == 'G') digits = to_upper(digits);
  } else if (format.type == 0) {
    if (format.precision >= 0) {
      return run.error("a float's format with a precision needs a type, such as 'f'");
    }
    digits = real_to_text(magnitude);
  } else {
    const char type = percent ? 'f' : format.type;
    digits =
        print_real(magnitude, format.precision < 0 ? 6 : format.precision, type, format.alternate);
  }
  if (format.grouping != 0) group_digits(format.grouping, &digits);
  if (percent) digits += '%';
  const std::string text =
      with_sign(std::move(digits), negative && !std::isnan(value), format.sign);
  return append_padded(run, text, text[0] == '-' || text[0] == '+' || text[0] == ' ', format, out);
}

Status append_integer(Run& run, int64_t value, const FieldFormat& format, std::string* out) {
  if (format.type == 'c') {
    if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      return run.error("the number is no character");
    }
    std::string text;
    append_utf8(static_cast<uint32_t>(value), &text);
    return append_padded(run, text, 0, format, out);
  }
  const int base = format.type == 'b'            ? 2
                   : format.type == 'o'          ? 8
                   : (format.type | 0x20) == 'x' ? 16
                                                 : 10;
  const uint64_t magnitude =
      value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  char buffer[72];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, magnitude, base).ptr;
  std::string digits(buffer, end);
  if (format.grouping != 0) group_digits(format.grouping, &digits);
  size_t prefix = 0;
  if (format.alternate && base != 10) {
    digits = std::string("0") + static_cast<char>(format.type | 0x20) + digits;
    prefix = 2;
  }
  if (format.type == 'X') digits = to_upper(digits);
  if (format.precision > 0 && digits.size() - prefix < static_cast<size_t>(format.precision)) {
    digits.insert(prefix, static_cast<size_t>(format.precision) - (digits.size() - prefix), '0');
  }
  const std::string text = with_sign(std::move(digits), value < 0, format.sign);
  const size_t sign = text[0] == '-' || text[0] == '+' || text[0] == ' ' ? 1 : 0;
  return append_padded(run, text, sign + prefix, format, out);
}

bool is_one_of(char c, std::string_view set) { return set.find(c) != set.npos; }

// One %-conversion: its flags, width and so on, and where its value comes from.
class PercentFormat {
 public:
  PercentFormat(Run& run, std::string_view rest, const Value& arguments)
      : run_(run), rest_(rest), arguments_(arguments) {}

  Result<Value> format() {
    std::string out;
    while (!rest_.empty()) {
      const size_t plain = std::min(rest_.find('%'), rest_.size());
      out += rest_.substr(0, plain);
      rest_.remove_prefix(plain);
      if (rest_.empty()) break;
      rest_.remove_prefix(1);
      RETURN_IF_ERROR(append_conversion(&out));
      RETURN_IF_ERROR(check_size(run_, out));
    }
    const bool may_ignore = arguments_.is(Kind::kDict) || arguments_.is(Kind::kList) ||
                            arguments_.is(Kind::kRange) ||
                            arguments_.is_undefined();  // what can be subscripted
    const size_t given = arguments_.is(Kind::kTuple) ? arguments_.size : may_ignore ? used_ : 1;
    if (used_ < given) return run_.error("not all arguments of '%' were used");
    return run_.text(out);
  }

 private:
  Result<Value> next_value() {
    if (arguments_.is(Kind::kTuple)) {
      if (used_ < arguments_.size) return arguments_.items[used_++];
    } else if (used_++ == 0) {
      return arguments_;
    }
    return run_.error("there are too few arguments for '%'");
  }

  Result<Value> named_value() {
    const size_t end = rest_.find(')');
    if (end == rest_.npos || !arguments_.is(Kind::kDict)) {
      return run_.error("'%(name)' needs a dict");
    }
    const Value key = Value::string(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    ASSIGN_OR_RETURN(const Value* const found, find(run_, *arguments_.dict, key));
    if (found == nullptr) {
      return run_.error("there is no '" + std::string(key.text().substr(0, 100)) + "' for '%'");
    }
    return *found;
  }

  // A number or '*'; -1 if there is none.
  Result<int64_t> number(int64_t most) {
    int64_t value = -1;
    if (rest_.starts_with('*')) {
      rest_.remove_prefix(1);
      ASSIGN_OR_RETURN(const Value given, next_value());
      if (!given.is_integral()) return run_.error("'*' needs an integer");
      value = given.as_integer();
    } else {
      const auto end = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value).ptr;
      rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    }
    if (value > most) return run_.error("a width or precision of '%' is too large");
    return value;
  }

  Status append_conversion(std::string* out) {
    FieldFormat format{.align = '>'};
    std::optional<Value> named;
    if (rest_.starts_with('(')) {
      ASSIGN_OR_RETURN(named, named_value());
    }
    bool left = false;
    bool zero = false;
    for (; !rest_.empty() && is_one_of(rest_[0], "-+ 0#"); rest_.remove_prefix(1)) {
      left |= rest_[0] == '-';
      zero |= rest_[0] == '0';
      format.alternate |= rest_[0] == '#';
      if (rest_[0] == '+' || (rest_[0] == ' ' && format.sign != '+')) format.sign = rest_[0];
    }
    if (!rest_.empty() && (is_one_of(rest_[0], "*123456789"))) {
      ASSIGN_OR_RETURN(format.width, number(1 << 20));
    }
    if (format.width < 0) left = true;
    format.width = std::abs(format.width);
    if (rest_.starts_with('.')) {
      rest_.remove_prefix(1);
      ASSIGN_OR_RETURN(const int64_t precision, number(kPrecisionMax));
      format.precision = static_cast<int>(std::max<int64_t>(precision, 0));
    }
    while (!rest_.empty() && is_one_of(rest_[0], "hlL")) rest_.remove_prefix(1);
    if (rest_.empty()) return run_.error("a '%' has no format behind it");
    format.type = rest_[0];
    rest_.remove_prefix(1);
    if (format.type == '%') {
      *out += '%';
      return {};
    }
    if (!is_one_of(format.type, "sradiuoxXeEfFgGc")) {
      return run_.error("an unknown format follows '%'");
    }
    if (left) format.align = '<';
    const bool numeric = !is_one_of(format.type, "srac");
    if (zero && !left && numeric) {
      format.align = '=';
      format.fill = "0";
    }
    Value value;
    if (named) {
      value = *named;
    } else {
      ASSIGN_OR_RETURN(value, next_value());
    }
    return append(value, format, out);
  }

  Status append(Value value, FieldFormat format, std::string* out) {
    if (is_one_of(format.type, "sra") || (format.type == 'c' && value.is_string())) {
      if (format.type == 'c' && count_code_points(value.text()) != 1) {
        return run_.error("'%c' needs one character");
      }
      std::string text;
      RETURN_IF_ERROR(is_one_of(format.type, "ra") ? append_repr(run_, value, &text)
                                                   : append_text(run_, value, &text));
      if (format.precision >= 0) {
        text.resize(byte_offset(text, static_cast<size_t>(format.precision)));
      }
      return append_padded(run_, text, 0, format, out);
    }
    if (!value.is_number()) return unknown_type(run_, value, format.type);
    if (is_one_of(format.type, "eEfFgG")) return append_real(run_, value.as_real(), format, out);
    if (value.is(Kind::kFloat)) {
      if (!is_one_of(format.type, "diu")) return unknown_type(run_, value, format.type);
      if (!(std::fabs(value.real) < 9.2e18)) {
        return run_.error("a number is out of range (64 bits)");
      }
      value = Value::integer_of(static_cast<int64_t>(value.real));
    }
    if (is_one_of(format.type, "iu")) format.type = 'd';
    return append_integer(run_, value.as_integer(), format, out);
  }

  Run& run_;
  std::string_view rest_;
  const Value& arguments_;
  size_t used_ = 0;
};

}  // namespace

Status append_padded(Run& run, std::string_view text, size_t sign_bytes, const FieldFormat& format,
                     std::string* out) {
  const auto size = static_cast<int64_t>(count_code_points(text));
  const int64_t missing = std::max<int64_t>(format.width - size, 0);
  RETURN_IF_ERROR(run.charge_bytes(text.size() + static_cast<size_t>(missing)));
  if (missing > static_cast<int64_t>(run.limits().memory_bytes_max)) {
    return run.reserve(static_cast<size_t>(missing));
  }
  const auto fill = [&](int64_t times) {
    for (int64_t i = 0; i < times; ++i) *out += format.fill;
  };
  const int64_t before = format.align == '<' || format.align == '=' ? 0
                         : format.align == '^'                      ? missing / 2
                                                                    : missing;
  fill(before);
  if (format.align == '=') {
    *out += text.substr(0, sign_bytes);
    fill(missing);
    *out += text.substr(sign_bytes);
    return {};
  }
  *out += text;
  fill(missing - before);
  return {};
}

Status append_formatted(Run& run, const Value& value, const FieldFormat& given, std::string* out) {
  FieldFormat format = given;
  if (value.is_string()) {
    if (format.type != 0 && format.type != 's') return unknown_type(run, value, format.type);
    if (format.align == '=') return run.error("'=' alignment works on numbers only");
    if (format.align == 0) format.align = '<';
    const size_t most = format.precision < 0 ? value.size : static_cast<size_t>(format.precision);
    return append_padded(run, value.text().substr(0, byte_offset(value.text(), most)), 0, format,
                         out);
  }
  if (!value.is_number()) {
    return run.error("a value of type " + std::string(value.type_name()) + " takes no format");
  }
  if (format.align == 0) format.align = '>';
  const bool real_type = is_one_of(format.type, "eEfFgG%") && format.type != 0;
  if (value.is(Kind::kFloat) || real_type) {
    if (format.type != 0 && !real_type) return unknown_type(run, value, format.type);
    return append_real(run, value.as_real(), format, out);
  }
  if (format.precision >= 0) return run.error("an integer takes no precision");
  if (format.type != 0 && !is_one_of(format.type, "bcdoxX")) {
    return unknown_type(run, value, format.type);
  }
  return append_integer(run, value.as_integer(), format, out);
}

Result<Value> format_percent(Run& run, const Value& format, const Value& arguments) {
  if (format.marked) return run.error("'%' does not work on escaped text");
  return PercentFormat(run, format.text(), arguments).format();
}

double round_real(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > kPrecisionMax) return value;
  if (digits < -308) return std::copysign(0.0, value);
  // printf rounds the exact decimal value half to even, as Python does.
  std::string text = print_real(value, static_cast<int>(std::max<int64_t>(digits, 0)), 'f', false);
  if (digits < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / unit) * unit;
  }
  double rounded = 0;
  std::from_chars(text.data(), text.data() + text.size(), rounded);
  return rounded;
}

}  // namespace skein::jinja
