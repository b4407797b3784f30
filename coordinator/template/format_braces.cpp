#include <charconv>

#include "coordinator/template/format.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

constexpr int64_t kWidthMax = 1 << 20;

bool is_one_of(char c, std::string_view set) { return set.find(c) != set.npos; }

class BraceFormat {
 public:
  BraceFormat(Run& run, std::string_view rest, const CallArguments& arguments)
      : run_(run), rest_(rest), arguments_(arguments) {}

  Result<Value> format() {
    std::string out;
    while (!rest_.empty()) {
      const size_t plain = std::min(rest_.find_first_of("{}"), rest_.size());
      out += rest_.substr(0, plain);
      rest_.remove_prefix(plain);
      if (rest_.empty()) break;
      const char brace = rest_[0];
      rest_.remove_prefix(1);
      if (rest_.starts_with(brace)) {
        out += brace;
        rest_.remove_prefix(1);
      } else if (brace == '}') {
        return run_.error("format: a single '}'");
      } else {
        RETURN_IF_ERROR(append_field(&out));
      }
      RETURN_IF_ERROR(check_size(run_, out));
    }
    return run_.text(out);
  }

 private:
  Status append_field(std::string* out) {
    const size_t end = rest_.find('}');
    if (end == rest_.npos) return run_.error("format: a '{' is not closed");
    std::string_view field = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    if (field.find('{') != field.npos) return run_.error("format: nested fields are not supported");
    const size_t colon = field.find(':');
    const std::string_view spec = colon == field.npos ? "" : field.substr(colon + 1);
    field = field.substr(0, colon);
    char conversion = 0;
    if (const size_t bang = field.find('!'); bang != field.npos) {
      if (bang + 2 != field.size() || !is_one_of(field[bang + 1], "sr")) {
        return run_.error("format: unknown conversion");
      }
      conversion = field[bang + 1];
      field = field.substr(0, bang);
    }
    ASSIGN_OR_RETURN(Value value, find_value(field));
    std::string text;
    if (conversion != 0 || spec.empty()) {
      RETURN_IF_ERROR(conversion == 'r' ? append_repr(run_, value, &text)
                                        : append_text(run_, value, &text));
      value = Value::string(text);
    }
    FieldFormat format;
    RETURN_IF_ERROR(parse_spec(spec, value, &format));
    return append_formatted(run_, value, format, out);
  }

  Result<Value> find_value(std::string_view name) {
    if (name.find_first_of(".[") != name.npos) {
      return run_.error("format: attributes in fields are not supported");
    }
    int64_t index = next_;
    const bool numbered = !name.empty() && name[0] >= '0' && name[0] <= '9';
    if (numbered) {
      const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
      if (error != std::errc() || end != name.data() + name.size()) {
        return run_.error("format: a bad field number");
      }
      numbered_ = true;
    }
    if (name.empty()) {
      ++next_;
      automatic_ = true;
    }
    if (numbered_ && automatic_) {
      return run_.error("format: numbered and unnumbered fields are mixed");
    }
    if (name.empty() || numbered) {
      if (static_cast<size_t>(index) < arguments_.positional.size()) {
        return arguments_.positional[index];
      }
      return run_.error("format: there are too few arguments");
    }
    for (const auto& [keyword, value] : arguments_.keywords) {
      if (keyword == name) return value;
    }
    return run_.error("format: there is no argument '" + std::string(name.substr(0, 100)) + "'");
  }

  // [[fill]align][sign][#][0][width][grouping][.precision][type]
  Status parse_spec(std::string_view spec, const Value& value, FieldFormat* format) {
    const size_t fill = spec.empty() ? 0 : first_code_point(spec).bytes;
    if (spec.size() > fill && is_one_of(spec[fill], "<>^=")) {
      format->fill = spec.substr(0, fill);
      format->align = spec[fill];
      spec.remove_prefix(fill + 1);
    } else if (!spec.empty() && is_one_of(spec[0], "<>^=")) {
      format->align = spec[0];
      spec.remove_prefix(1);
    }
    if (!spec.empty() && is_one_of(spec[0], "+- ")) format->sign = take(&spec);
    if (spec.starts_with('#')) format->alternate = take(&spec) != 0;
    if (spec.starts_with('0')) {
      take(&spec);
      if (format->align == 0) {
        format->fill = "0";
        if (!value.is_string()) format->align = '=';
      }
    }
    spec.remove_prefix(parse_number(spec, &format->width));
    if (!spec.empty() && is_one_of(spec[0], ",_")) format->grouping = take(&spec);
    if (spec.starts_with('.')) {
      take(&spec);
      int64_t precision = -1;
      const size_t digits = parse_number(spec, &precision);
      if (digits == 0) return run_.error("format: a precision is missing");
      if (precision > 400) return run_.error("format: a precision is too large");
      format->precision = static_cast<int>(precision);
      spec.remove_prefix(digits);
    }
    if (!spec.empty()) format->type = take(&spec);
    if (!spec.empty()) return run_.error("format: a bad format specification");
    if (format->width > kWidthMax) return run_.error("format: a width is too large");
    return {};
  }

  static char take(std::string_view* spec) {
    const char c = spec->front();
    spec->remove_prefix(1);
    return c;
  }

  static size_t parse_number(std::string_view spec, int64_t* number) {
    if (spec.empty() || !is_one_of(spec[0], "0123456789")) return 0;
    const auto [end, error] = std::from_chars(spec.data(), spec.data() + spec.size(), *number);
    if (error != std::errc()) *number = int64_t{1} << 60;
    return static_cast<size_t>(end - spec.data());
  }

  Run& run_;
  std::string_view rest_;
  const CallArguments& arguments_;
  int64_t next_ = 0;
  bool numbered_ = false, automatic_ = false;
};

}  // namespace

Result<Value> format_braces(Run& run, std::string_view format, const CallArguments& arguments) {
  return BraceFormat(run, format, arguments).format();
}

}  // namespace skein::jinja
