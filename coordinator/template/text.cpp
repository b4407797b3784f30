#include "coordinator/template/text.h"

#include <charconv>
#include <cmath>

#include "coordinator/template/functions.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

// Python writes floats without an exponent from 1e-4 up to 1e16.
constexpr int kFixedExponentMin = -4;
constexpr int kFixedExponentMax = 16;

void append_hex(uint32_t value, int digits, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) *out += kHex[value >> shift & 15];
}

void append_escaped(uint32_t c, std::string* out) {
  if (c < 0x100) {
    *out += "\\x";
    append_hex(c, 2, out);
  } else if (c < 0x10000) {
    *out += "\\u";
    append_hex(c, 4, out);
  } else {
    *out += "\\U";
    append_hex(c, 8, out);
  }
}

void append_quoted(std::string_view text, std::string* out) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  *out += quote;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    if (c.value == static_cast<uint32_t>(quote) || c.value == '\\') {
      *out += '\\';
      *out += text[0];
    } else if (c.value == '\n') {
      *out += "\\n";
    } else if (c.value == '\r') {
      *out += "\\r";
    } else if (c.value == '\t') {
      *out += "\\t";
    } else if (c.value < 0x7F ? c.value >= 0x20 : is_printable(c.value)) {
      *out += text.substr(0, c.bytes);
    } else {
      append_escaped(c.value, out);
    }
    text.remove_prefix(c.bytes);
  }
  *out += quote;
}

Status append_items(Run& run, const Value* items, size_t size, std::string* out) {
  for (size_t i = 0; i < size; ++i) {
    if (i > 0) *out += ", ";
    RETURN_IF_ERROR(append_repr(run, items[i], out));
  }
  return {};
}

Status append_entries(Run& run, const Entry* entries, size_t size, std::string* out) {
  *out += '{';
  for (size_t i = 0; i < size; ++i) {
    if (i > 0) *out += ", ";
    RETURN_IF_ERROR(append_repr(run, entries[i].key, out));
    *out += ": ";
    RETURN_IF_ERROR(append_repr(run, entries[i].value, out));
  }
  *out += '}';
  return {};
}

Status append_view(Run& run, const Value& value, std::string* out) {
  constexpr std::string_view kNames[] = {"dict_keys([", "dict_values([", "dict_items(["};
  *out += kNames[static_cast<int>(value.view->of)];
  ASSIGN_OR_RETURN(const Value list, to_list(run, value));
  RETURN_IF_ERROR(append_items(run, list.items, list.size, out));
  *out += "])";
  return {};
}

Status append_sequence(Run& run, const Value& value, std::string* out) {
  const bool is_list = value.is(Kind::kList);
  *out += is_list ? '[' : '(';
  RETURN_IF_ERROR(append_items(run, value.items, value.size, out));
  if (!is_list && value.size == 1) *out += ',';
  *out += is_list ? ']' : ')';
  return {};
}

void append_range(const Range& range, std::string* out) {
  *out += "range(" + std::to_string(range.start) + ", " + std::to_string(range.stop);
  if (range.step != 1) *out += ", " + std::to_string(range.step);
  *out += ')';
}

Status append_nested(Run& run, const Value& value, std::string* out) {
  const Nesting nesting(run);
  RETURN_IF_ERROR(nesting.status());
  switch (value.kind) {
    case Kind::kList:
    case Kind::kTuple: return append_sequence(run, value, out);
    case Kind::kDict: return append_entries(run, value.dict->entries, value.dict->size, out);
    case Kind::kView: return append_view(run, value, out);
    case Kind::kNamespace:
      *out += "<Namespace ";
      RETURN_IF_ERROR(append_entries(run, value.names->entries, value.names->size, out));
      *out += '>';
      return {};
    default: *out += '<' + std::string(value.type_name()) + " object>"; return {};
  }
}

}  // namespace

std::string real_to_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, end - buffer);
  const size_t e = text.find('e');
  int exponent = 0;
  const size_t first_digit = e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(text.data() + first_digit, text.data() + text.size(), exponent);
  if (exponent < kFixedExponentMin || exponent >= kFixedExponentMax) return std::string(text);
  char fixed[64];
  const auto fixed_end =
      std::to_chars(fixed, fixed + sizeof fixed, value, std::chars_format::fixed).ptr;
  std::string out(fixed, fixed_end);
  if (out.find('.') == out.npos) out += ".0";
  return out;
}

std::string undefined_message(const Value& value) {
  const std::string name(value.text().substr(0, 200));
  if (value.owner == Kind::kUndefined) return "'" + name + "' is undefined";
  if (value.owner == Kind::kNone) return name;
  Value owner;
  owner.kind = value.owner;
  return "'" + std::string(owner.type_name()) + " object' has no attribute '" + name + "'";
}

Status check_defined(Run& run, const Value& value) {
  return value.is_undefined() ? run.error(undefined_message(value)) : Status();
}

Status check_size(Run& run, const std::string& text) {
  if (text.size() <= run.limits().memory_bytes_max) return {};
  return run.reserve(text.size());  // fails
}

Status append_text(Run& run, const Value& value, std::string* out) {
  if (value.is_undefined()) return {};
  if (!value.is_string()) return append_repr(run, value, out);
  RETURN_IF_ERROR(run.charge_bytes(value.size));
  *out += value.text();
  return check_size(run, *out);
}

Status append_repr(Run& run, const Value& value, std::string* out) {
  RETURN_IF_ERROR(run.charge(1));
  RETURN_IF_ERROR(check_size(run, *out));
  switch (value.kind) {
    case Kind::kUndefined: *out += "Undefined"; return {};
    case Kind::kNone: *out += "None"; return {};
    case Kind::kBool: *out += value.boolean ? "True" : "False"; return {};
    case Kind::kInt: *out += std::to_string(value.integer); return {};
    case Kind::kFloat: *out += real_to_text(value.real); return {};
    case Kind::kString:
      RETURN_IF_ERROR(run.charge_bytes(4 * value.size));
      if (value.marked) *out += "Markup(";
      append_quoted(value.text(), out);
      if (value.marked) *out += ')';
      return {};
    case Kind::kRange: append_range(*value.range, out); return {};
    case Kind::kLoop: return append_loop(run, value, out);
    default: return append_nested(run, value, out);
  }
}

Result<Value> to_text(Run& run, const Value& value) {
  if (value.is_string()) return Value::string(value.text());
  if (value.is_undefined()) return Value::string("");
  std::string text;
  RETURN_IF_ERROR(append_text(run, value, &text));
  return run.text(text);
}

Result<Value> escape_html(Run& run, const Value& value) {
  if (value.is_string() && value.marked) return value;
  ASSIGN_OR_RETURN(const Value plain, to_text(run, value));
  RETURN_IF_ERROR(run.charge_bytes(4 * plain.size));
  std::string out;
  for (const char c : plain.text()) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  ASSIGN_OR_RETURN(Value escaped, run.text(out));
  escaped.marked = true;
  return escaped;
}

}  // namespace skein::jinja
