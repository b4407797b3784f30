#include <algorithm>

#include "coordinator/template/filters.h"
#include "coordinator/template/format.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/string_methods.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

// markupsafe.soft_str: text as it is, everything else through str().
Result<Value> soft_text(const Call& call) {
  if (call.self.is_string()) return call.self;
  return to_text(call.run, call.self);
}

Result<Value> map_soft(const Call& call, std::string (*mapping)(std::string_view)) {
  ASSIGN_OR_RETURN(const Value text, soft_text(call));
  return mapped(call.run, text, mapping);
}

bool begins_word(uint32_t c) {
  return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

// Capitalises what follows white space or an opening bracket.
std::string title_words(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t end = 0;
    const bool separator = begins_word(first_code_point(text).value);
    while (end < text.size()) {
      const CodePoint c = first_code_point(text.substr(end));
      if (begins_word(c.value) != separator) break;
      end += c.bytes;
    }
    const std::string_view part = text.substr(0, end);
    const size_t first = first_code_point(part).bytes;
    out += separator ? std::string(part)
                     : to_upper(part.substr(0, first)) + to_lower(part.substr(first));
    text.remove_prefix(end);
  }
  return out;
}

Result<std::string> indention_of(const Call& call, const Value* width, int64_t otherwise) {
  if (width != nullptr && width->is_string()) return std::string(width->text());
  int64_t spaces = otherwise;
  if (width != nullptr) {
    if (!width->is_integral()) {
      return call.run.error("an indentation must be an integer or a string");
    }
    spaces = width->as_integer();
  }
  if (spaces > 1024) return call.run.error("an indentation of more than 1024 is not supported");
  return std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
}

bool is_url_safe(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-._~").find(c) != std::string_view::npos;
}

Status append_url_quoted(Run& run, const Value& value, bool in_query, std::string* out) {
  constexpr char kHex[] = "0123456789ABCDEF";
  ASSIGN_OR_RETURN(const Value text, to_text(run, value));
  RETURN_IF_ERROR(run.charge_bytes(4 * text.size));
  for (const char c : text.text()) {
    const auto byte = static_cast<unsigned char>(c);
    if (is_url_safe(c) || (c == '/' && !in_query)) {
      *out += c;
    } else if (c == ' ' && in_query) {
      *out += '+';
    } else {
      *out += '%';
      *out += kHex[byte >> 4];
      *out += kHex[byte & 15];
    }
  }
  return check_size(run, *out);
}

Status read_separators(const Call& call, JsonStyle* style) {
  const Value* const separators = call.get(2);
  if (separators == nullptr || separators->is_none()) {
    if (style->pretty) style->item_separator = ",";
    return {};
  }
  const bool good = separators->is_sequence() && separators->size == 2 &&
                    separators->items[0].is_string() && separators->items[1].is_string();
  if (!good) return call.run.error("tojson: separators must be two strings");
  style->item_separator = separators->items[0].text();
  style->key_separator = separators->items[1].text();
  return {};
}

}  // namespace

Result<Value> filter_upper(const Call& call) { return map_soft(call, to_upper); }
Result<Value> filter_lower(const Call& call) { return map_soft(call, to_lower); }
Result<Value> filter_capitalize(const Call& call) { return map_soft(call, capitalize); }

Result<Value> filter_title(const Call& call) {
  ASSIGN_OR_RETURN(Value text, map_soft(call, title_words));
  text.marked = false;
  return text;
}

Result<Value> filter_trim(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, soft_text(call));
  return strip(call.run, text, call.get(0), true, true);
}

Result<Value> filter_center(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, soft_text(call));
  ASSIGN_OR_RETURN(const int64_t width, call.integer(0, 80));
  return center(call.run, text, width, " ");
}

Result<Value> filter_string(const Call& call) { return soft_text(call); }

Result<Value> filter_safe(const Call& call) {
  ASSIGN_OR_RETURN(Value text, to_text(call.run, call.self));
  text.marked = true;
  return text;
}

Result<Value> filter_escape(const Call& call) { return escape_html(call.run, call.self); }

Result<Value> filter_force_escape(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, to_text(call.run, call.self));
  return escape_html(call.run, text);
}

Result<Value> filter_replace(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, to_text(call.run, call.self));
  ASSIGN_OR_RETURN(const Value from, to_text(call.run, *call.get(0)));
  ASSIGN_OR_RETURN(const Value to, to_text(call.run, *call.get(1)));
  ASSIGN_OR_RETURN(const int64_t count, call.integer_or_none(2, -1));
  return replace(call.run, text, from.text(), to.text(), count);
}

Result<Value> filter_format(const Call& call) {
  ASSIGN_OR_RETURN(const Value format, soft_text(call));
  const auto& [positional, keywords] = call.arguments;
  if (keywords.empty()) {
    ASSIGN_OR_RETURN(const Value arguments, call.run.sequence(Kind::kTuple, positional));
    return format_percent(call.run, format, arguments);
  }
  if (!positional.empty()) {
    return call.run.error("format takes arguments by position or by name, not both");
  }
  DictBuilder dict(call.run);
  for (const auto& [name, value] : keywords) RETURN_IF_ERROR(dict.set(Value::string(name), value));
  ASSIGN_OR_RETURN(const Value arguments, dict.finish());
  return format_percent(call.run, format, arguments);
}

Result<Value> filter_indent(const Call& call) {
  Run& run = call.run;
  RETURN_IF_ERROR(check_defined(run, call.self));
  if (!call.self.is_string()) return run.error("indent needs a string");
  ASSIGN_OR_RETURN(const std::string indention, indention_of(call, call.get(0), 4));
  // One more newline, so that a last empty line counts.
  ASSIGN_OR_RETURN(const Value ended, run.text(std::string(call.self.text()) + '\n'));
  ASSIGN_OR_RETURN(const Value lines, split_lines(run, ended, false));
  const bool blank = call.flag(2);
  std::string out = call.flag(1) ? indention : "";
  for (size_t i = 0; i < lines.size; ++i) {
    const std::string_view line = lines.items[i].text();
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !line.empty())) {
      RETURN_IF_ERROR(run.charge_bytes(indention.size()));
      out += indention;
    }
    out += line;
    RETURN_IF_ERROR(check_size(run, out));
  }
  ASSIGN_OR_RETURN(Value text, run.text(out));
  text.marked = call.self.marked;
  return text;
}

Result<Value> filter_truncate(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const int64_t length_max, call.integer(0, 255));
  ASSIGN_OR_RETURN(const std::string_view end, call.string(2, "..."));
  ASSIGN_OR_RETURN(const int64_t leeway, call.integer_or_none(3, 5));
  ASSIGN_OR_RETURN(const int64_t size, length(run, call.self));
  const auto end_size = static_cast<int64_t>(count_code_points(end));
  if (length_max < end_size || leeway < 0) return run.error("truncate: the length is too small");
  if (size - leeway <= length_max) return call.self;
  if (!call.self.is_string()) return run.error("truncate needs a string");
  const std::string_view text = call.self.text();
  std::string_view kept =
      text.substr(0, byte_offset(text, static_cast<size_t>(length_max - end_size)));
  if (!call.flag(1)) kept = kept.substr(0, kept.rfind(' '));
  return arithmetic(run, Operator::kAdd, Value::string(kept, call.self.marked), Value::string(end));
}

Result<Value> filter_wordcount(const Call& call) {
  ASSIGN_OR_RETURN(const Value text, soft_text(call));
  RETURN_IF_ERROR(call.run.charge_bytes(8 * text.size));
  int64_t words = 0;
  bool inside = false;
  for (std::string_view rest = text.text(); !rest.empty();) {
    const CodePoint c = first_code_point(rest);
    const bool word = is_alnum(c.value) || c.value == '_';
    words += word && !inside ? 1 : 0;
    inside = word;
    rest.remove_prefix(c.bytes);
  }
  return Value::integer_of(words);
}

Result<Value> filter_urlencode(const Call& call) {
  Run& run = call.run;
  std::string out;
  if (call.self.is_string() || !iterable(call.self)) {
    RETURN_IF_ERROR(append_url_quoted(run, call.self, false, &out));
    return run.text(out);
  }
  Value pairs = call.self;
  if (pairs.is(Kind::kDict)) {
    ASSIGN_OR_RETURN(pairs, filter_items(call));
  }
  ASSIGN_OR_RETURN(pairs, to_list(run, pairs));
  for (size_t i = 0; i < pairs.size; ++i) {
    ASSIGN_OR_RETURN(const Value pair, to_list(run, pairs.items[i]));
    if (pair.size != 2) return run.error("urlencode needs pairs");
    if (i > 0) out += '&';
    RETURN_IF_ERROR(append_url_quoted(run, pair.items[0], true, &out));
    out += '=';
    RETURN_IF_ERROR(append_url_quoted(run, pair.items[1], true, &out));
  }
  return run.text(out);
}

// transformers replaces Jinja's own tojson by json.dumps.
Result<Value> filter_tojson(const Call& call) {
  JsonStyle style{.ensure_ascii = call.flag(0), .sort_keys = call.flag(3)};
  if (call.get(1) != nullptr && !call.get(1)->is_none()) {
    ASSIGN_OR_RETURN(style.indent, indention_of(call, call.get(1), 0));
    style.pretty = true;
  }
  RETURN_IF_ERROR(read_separators(call, &style));
  std::string out;
  RETURN_IF_ERROR(append_json_text(call.run, call.self, style, &out));
  return call.run.text(out);
}

}  // namespace skein::jinja
