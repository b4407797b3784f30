#include <algorithm>
#include <cmath>
#include <vector>

#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

void append_unit(uint32_t unit, std::string* out) {
  constexpr char kHex[] = "0123456789abcdef";
  *out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) *out += kHex[unit >> shift & 15];
}

void append_code_point(uint32_t c, std::string* out) {
  if (c < 0x10000) return append_unit(c, out);
  append_unit(0xD800 + ((c - 0x10000) >> 10), out);
  append_unit(0xDC00 + ((c - 0x10000) & 0x3FF), out);
}

// Python escapes less than base's writer: not U+007F, and \b and \f by letter.
void append_quoted(std::string_view text, bool ensure_ascii, std::string* out) {
  constexpr std::string_view kSpecial = "\"\\\n\r\t\f\b";
  constexpr std::string_view kLetters = "\"\\nrtfb";
  *out += '"';
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    if (const size_t special = kSpecial.find(text[0]); special != kSpecial.npos) {
      *out += '\\';
      *out += kLetters[special];
    } else if (c.value < 0x20 || (ensure_ascii && c.value >= 0x7F)) {
      append_code_point(c.value, out);
    } else {
      *out += text.substr(0, c.bytes);
    }
    text.remove_prefix(c.bytes);
  }
  *out += '"';
}

std::string json_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return real_to_text(value);
}

class JsonText {
 public:
  JsonText(Run& run, const JsonStyle& style, std::string* out)
      : run_(run), style_(style), out_(out) {}

  Status append(const Value& value) {
    RETURN_IF_ERROR(run_.charge(1));
    RETURN_IF_ERROR(check_size(run_, *out_));
    switch (value.kind) {
      case Kind::kString: return append_string(value);
      case Kind::kList:
      case Kind::kTuple: return append_list(value);
      case Kind::kDict: return append_dict(*value.dict);
      default: break;
    }
    if (!is_scalar(value)) {
      return run_.error("a value of type " + std::string(value.type_name()) +
                        " cannot be written as JSON");
    }
    *out_ += scalar(value);
    return {};
  }

 private:
  static bool is_scalar(const Value& value) { return value.is_none() || value.is_number(); }

  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is(Kind::kBool)) return value.boolean ? "true" : "false";
    return value.is(Kind::kInt) ? std::to_string(value.integer) : json_number(value.real);
  }

  Status append_string(const Value& value) {
    RETURN_IF_ERROR(run_.charge_bytes(4 * value.size));
    append_quoted(value.text(), style_.ensure_ascii, out_);
    return {};
  }

  void new_line() {
    if (!style_.pretty) return;
    *out_ += '\n';
    for (int i = 0; i < level_; ++i) *out_ += style_.indent;
  }

  Status append_list(const Value& list) {
    const Nesting nesting(run_);
    RETURN_IF_ERROR(nesting.status());
    *out_ += '[';
    ++level_;
    for (size_t i = 0; i < list.size; ++i) {
      if (i > 0) *out_ += style_.item_separator;
      new_line();
      RETURN_IF_ERROR(append(list.items[i]));
    }
    --level_;
    if (list.size > 0) new_line();
    *out_ += ']';
    return {};
  }

  Status append_key(const Value& key) {
    if (key.is_string()) return append_string(key);
    if (!is_scalar(key)) {
      return run_.error("a key of type " + std::string(key.type_name()) +
                        " cannot be written as JSON");
    }
    *out_ += '"' + scalar(key) + '"';
    return {};
  }

  Result<std::vector<Entry>> sorted(const Dict& dict) {
    std::vector<Entry> entries(dict.entries, dict.entries + dict.size);
    Status failure;
    std::stable_sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) {
      if (!failure.ok()) return false;
      auto before = less(run_, a.key, b.key);
      if (!before.ok()) failure = before.status();
      return before.ok() && *before;
    });
    if (!failure.ok()) return failure;
    return entries;
  }

  Status append_dict(const Dict& dict) {
    const Nesting nesting(run_);
    RETURN_IF_ERROR(nesting.status());
    std::vector<Entry> order;
    if (style_.sort_keys) {
      RETURN_IF_ERROR(run_.reserve(dict.size * sizeof(Entry)));
      ASSIGN_OR_RETURN(order, sorted(dict));
    }
    const Entry* const entries = style_.sort_keys ? order.data() : dict.entries;
    *out_ += '{';
    ++level_;
    for (size_t i = 0; i < dict.size; ++i) {
      if (i > 0) *out_ += style_.item_separator;
      new_line();
      RETURN_IF_ERROR(append_key(entries[i].key));
      *out_ += style_.key_separator;
      RETURN_IF_ERROR(append(entries[i].value));
    }
    --level_;
    if (dict.size > 0) new_line();
    *out_ += '}';
    return {};
  }

  Run& run_;
  const JsonStyle& style_;
  std::string* out_;
  int level_ = 0;
};

}  // namespace

Status append_json_text(Run& run, const Value& value, const JsonStyle& style, std::string* out) {
  return JsonText(run, style, out).append(value);
}

}  // namespace skein::jinja
