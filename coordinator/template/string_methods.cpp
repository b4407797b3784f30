#include "coordinator/template/string_methods.h"

#include <algorithm>

#include "coordinator/template/format.h"
#include "coordinator/template/search.h"
#include "coordinator/template/split.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

Result<Value> text_of(Run& run, std::string_view text, bool marked) {
  ASSIGN_OR_RETURN(Value value, run.text(text));
  value.marked = marked;
  return value;
}

bool is_cased(uint32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

std::string title(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto run_of = [&](bool cased) {
      size_t end = 0;
      while (end < text.size()) {
        const CodePoint c = first_code_point(text.substr(end));
        if (is_cased(c.value) != cased) break;
        end += c.bytes;
      }
      const std::string_view part = text.substr(0, end);
      text.remove_prefix(end);
      return part;
    };
    out += run_of(false);
    out += capitalize(run_of(true));
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    const std::string_view one = text.substr(0, c.bytes);
    out += is_upper(c.value) ? to_lower(one) : is_lower(c.value) ? to_upper(one) : std::string(one);
    text.remove_prefix(c.bytes);
  }
  return out;
}

template <std::string (*mapping)(std::string_view)>
Result<Value> map_method(const Call& call) {
  return mapped(call.run, call.self, mapping);
}

template <bool left, bool right>
Result<Value> strip_method(const Call& call) {
  return strip(call.run, call.self, call.get(0), left, right);
}

// Whether there is a character and all of them are so.
template <bool (*is_wanted)(uint32_t)>
Result<Value> every(const Call& call) {
  RETURN_IF_ERROR(call.run.charge_bytes(8 * call.self.size));
  std::string_view text = call.self.text();
  bool all = !text.empty();
  while (all && !text.empty()) {
    const CodePoint c = first_code_point(text);
    all = is_wanted(c.value);
    text.remove_prefix(c.bytes);
  }
  return Value::boolean_of(all);
}

template <bool (*is_wanted)(uint32_t), bool (*is_other)(uint32_t)>
Result<Value> cased(const Call& call) {
  RETURN_IF_ERROR(call.run.charge_bytes(8 * call.self.size));
  return Value::boolean_of(all_cased(call.self.text(), is_wanted, is_other));
}

Result<Value> is_ascii_method(const Call& call) {
  return Value::boolean_of(is_ascii(call.self.text()));
}

Result<Value> is_title_method(const Call& call) {
  RETURN_IF_ERROR(call.run.charge_bytes(8 * call.self.size));
  bool any = false;
  bool previous = false;
  for (std::string_view text = call.self.text(); !text.empty();) {
    const CodePoint c = first_code_point(text);
    const bool capital = is_upper(c.value) || is_title(c.value);
    if ((capital && previous) || (is_lower(c.value) && !previous)) return Value::boolean_of(false);
    previous = is_cased(c.value);
    any |= previous;
    text.remove_prefix(c.bytes);
  }
  return Value::boolean_of(any);
}

bool is_printable_or_empty(uint32_t c) { return is_printable(c); }

Result<Value> is_printable_method(const Call& call) {
  if (call.self.size == 0) return Value::boolean_of(true);
  return every<is_printable_or_empty>(call);
}

// self[start:stop] of the arguments after the first, and how many characters come before it.
struct Part {
  std::string_view text;
  int64_t offset;
  bool reversed;  // start is behind the end: nothing is found there, not even ""
};

Result<Part> searched_part(const Call& call) {
  RETURN_IF_ERROR(call.run.charge_bytes(2 * call.self.size));
  const std::string_view text = call.self.text();
  if (call.get(1) == nullptr) return Part{text, 0, false};
  const auto size = static_cast<int64_t>(count_code_points(text));
  ASSIGN_OR_RETURN(int64_t start, call.integer_or_none(1, 0));
  ASSIGN_OR_RETURN(int64_t stop, call.integer_or_none(2, size));
  if (start < 0) start = std::max<int64_t>(start + size, 0);
  if (stop < 0) stop = std::max<int64_t>(stop + size, 0);
  stop = std::min(stop, size);
  if (start > stop) return Part{{}, 0, true};
  const size_t begin = byte_offset(text, static_cast<size_t>(start));
  return Part{
      text.substr(begin, byte_offset(text.substr(begin), static_cast<size_t>(stop - start))), start,
      false};
}

template <bool from_right, bool must_exist>
Result<Value> find_method_body(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view what, call.string(0, ""));
  ASSIGN_OR_RETURN(const Part part, searched_part(call));
  RETURN_IF_ERROR(call.run.charge_bytes(what.size()));
  const size_t at = part.reversed ? part.text.npos
                    : from_right  ? rfind_text(part.text, what)
                                  : find_text(part.text, what);
  if (at != part.text.npos) {
    return Value::integer_of(part.offset +
                             static_cast<int64_t>(count_code_points(part.text.substr(0, at))));
  }
  if (must_exist) return call.run.error("substring not found");
  return Value::integer_of(-1);
}

Result<Value> count(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view what, call.string(0, ""));
  ASSIGN_OR_RETURN(const Part part, searched_part(call));
  if (part.reversed) return Value::integer_of(0);
  if (what.empty()) {
    return Value::integer_of(static_cast<int64_t>(count_code_points(part.text)) + 1);
  }
  int64_t times = 0;
  for (size_t at = find_text(part.text, what); at != part.text.npos;
       at = find_text(part.text, what, at + what.size())) {
    ++times;
  }
  RETURN_IF_ERROR(call.run.charge(times >> 2));
  return Value::integer_of(times);
}

template <bool at_start>
Result<Value> affix(const Call& call) {
  ASSIGN_OR_RETURN(const Part part, searched_part(call));
  const Value& wanted = *call.get(0);
  const Value* const options = wanted.is(Kind::kTuple) ? wanted.items : &wanted;
  const size_t size = wanted.is(Kind::kTuple) ? wanted.size : 1;
  for (size_t i = 0; i < size; ++i) {
    if (!options[i].is_string()) {
      return call.run.error("startswith and endswith need a string or a tuple of strings");
    }
    RETURN_IF_ERROR(call.run.charge(1));
    RETURN_IF_ERROR(call.run.charge_bytes(options[i].size));
    const std::string_view option = options[i].text();
    const bool found = at_start ? part.text.starts_with(option) : part.text.ends_with(option);
    if (found && !part.reversed) return Value::boolean_of(true);
  }
  return Value::boolean_of(false);
}

template <bool at_start>
Result<Value> remove_affix(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view what, call.string(0, ""));
  const std::string_view text = call.self.text();
  if (at_start && text.starts_with(what)) {
    return Value::string(text.substr(what.size()), call.self.marked);
  }
  if (!at_start && text.ends_with(what)) {
    return Value::string(text.substr(0, text.size() - what.size()), call.self.marked);
  }
  return call.self;
}

template <char align>
Result<Value> justify(const Call& call) {
  ASSIGN_OR_RETURN(const int64_t width, call.integer(0, 0));
  ASSIGN_OR_RETURN(const std::string_view fill, call.string(1, " "));
  if (count_code_points(fill) != 1) return call.run.error("the fill must be one character");
  if (align == '^') return center(call.run, call.self, width, fill);
  std::string out;
  const FieldFormat format{.fill = std::string(fill), .align = align, .width = width};
  RETURN_IF_ERROR(append_padded(call.run, call.self.text(), 0, format, &out));
  return text_of(call.run, out, call.self.marked);
}

Result<Value> zfill(const Call& call) {
  ASSIGN_OR_RETURN(const int64_t width, call.integer(0, 0));
  const std::string_view text = call.self.text();
  const bool sign = text.starts_with('-') || text.starts_with('+');
  std::string out;
  const FieldFormat format{.fill = "0", .align = '=', .width = width};
  RETURN_IF_ERROR(append_padded(call.run, text, sign ? 1 : 0, format, &out));
  return text_of(call.run, out, call.self.marked);
}

Result<Value> replace_method(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const std::string_view from, call.string(0, ""));
  ASSIGN_OR_RETURN(const std::string_view to, call.string(1, ""));
  ASSIGN_OR_RETURN(const int64_t times, call.integer(2, -1));
  if (!call.self.marked) return replace(run, call.self, from, to, times);
  ASSIGN_OR_RETURN(const Value escaped, escape_html(run, *call.get(1)));
  return replace(run, call.self, from, escaped.text(), times);
}

Result<Value> join_method(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const Value list, to_list(run, *call.get(0)));
  std::string out;
  for (size_t i = 0; i < list.size; ++i) {
    Value item = list.items[i];
    if (call.self.marked) {
      ASSIGN_OR_RETURN(item, escape_html(run, item));
    }
    if (!item.is_string()) {
      return run.error("join: an item is of type " + std::string(item.type_name()) + ", not str");
    }
    if (i > 0) RETURN_IF_ERROR(append_text(run, call.self, &out));
    RETURN_IF_ERROR(append_text(run, item, &out));
  }
  return text_of(run, out, call.self.marked);
}

Result<Value> format_method(const Call& call) {
  if (call.self.marked) return call.run.error("format does not work on escaped text");
  return format_braces(call.run, call.self.text(), call.arguments);
}

constexpr Callable kStringMethods[] = {
    {"strip", strip_method<true, true>, 0, {"(chars)"}},
    {"lstrip", strip_method<true, false>, 0, {"(chars)"}},
    {"rstrip", strip_method<false, true>, 0, {"(chars)"}},
    {"split", split_method, 0, {"sep", "maxsplit"}},
    {"rsplit", rsplit_method, 0, {"sep", "maxsplit"}},
    {"splitlines", splitlines_method, 0, {"keepends"}},
    {"partition", partition_method, 1, {"(sep)"}},
    {"rpartition", rpartition_method, 1, {"(sep)"}},
    {"startswith", affix<true>, 1, {"(prefix)", "(start)", "(end)"}},
    {"endswith", affix<false>, 1, {"(suffix)", "(start)", "(end)"}},
    {"upper", map_method<to_upper>},
    {"lower", map_method<to_lower>},
    {"title", map_method<title>},
    {"capitalize", map_method<capitalize>},
    {"swapcase", map_method<swap_case>},
    {"casefold", map_method<fold_case>},
    {"replace", replace_method, 2, {"(old)", "(new)", "(count)"}},
    {"join", join_method, 1, {"(iterable)"}},
    {"find", find_method_body<false, false>, 1, {"(sub)", "(start)", "(end)"}},
    {"rfind", find_method_body<true, false>, 1, {"(sub)", "(start)", "(end)"}},
    {"index", find_method_body<false, true>, 1, {"(sub)", "(start)", "(end)"}},
    {"rindex", find_method_body<true, true>, 1, {"(sub)", "(start)", "(end)"}},
    {"count", count, 1, {"(sub)", "(start)", "(end)"}},
    {"removeprefix", remove_affix<true>, 1, {"(prefix)"}},
    {"removesuffix", remove_affix<false>, 1, {"(suffix)"}},
    {"center", justify<'^'>, 1, {"(width)", "(fillchar)"}},
    {"ljust", justify<'<'>, 1, {"(width)", "(fillchar)"}},
    {"rjust", justify<'>'>, 1, {"(width)", "(fillchar)"}},
    {"zfill", zfill, 1, {"(width)"}},
    {"format", format_method, 0, {}, true},
    {"isalpha", every<is_alpha>},
    {"isdecimal", every<is_decimal>},
    {"isdigit", every<is_digit>},
    {"isnumeric", every<is_numeric>},
    {"isalnum", every<is_alnum>},
    {"isspace", every<is_space>},
    {"isprintable", is_printable_method},
    {"isascii", is_ascii_method},
    {"isupper", cased<is_upper, is_lower>},
    {"islower", cased<is_lower, is_upper>},
    {"istitle", is_title_method},
};

}  // namespace

std::span<const Callable> string_methods() { return kStringMethods; }

bool all_cased(std::string_view text, bool (*is_wanted)(uint32_t), bool (*is_other)(uint32_t)) {
  bool any = false;
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    if (is_other(c.value) || is_title(c.value)) return false;
    any |= is_wanted(c.value);
    text.remove_prefix(c.bytes);
  }
  return any;
}

Result<Value> mapped(Run& run, const Value& self, std::string (*mapping)(std::string_view)) {
  RETURN_IF_ERROR(run.charge_bytes(4 * self.size));
  return text_of(run, mapping(self.text()), self.marked);
}

Result<Value> strip(Run& run, const Value& self, const Value* characters, bool left, bool right) {
  RETURN_IF_ERROR(run.charge_bytes(self.size));
  std::string_view text = self.text();
  if (characters == nullptr || characters->is_none()) {
    if (left) text = strip_left(text);
    if (right) text = strip_right(text);
    return Value::string(text, self.marked);
  }
  if (!characters->is_string()) return run.error("strip needs a string");
  const std::string_view set = characters->text();
  const auto cost = static_cast<int64_t>(1 + (set.size() >> 6));
  while (left && !text.empty()) {
    const std::string_view first = text.substr(0, first_code_point(text).bytes);
    RETURN_IF_ERROR(run.charge(cost));
    if (set.find(first) == set.npos) break;
    text.remove_prefix(first.size());
  }
  while (right && !text.empty()) {
    const std::string_view last = text.substr(last_code_point(text));
    RETURN_IF_ERROR(run.charge(cost));
    if (set.find(last) == set.npos) break;
    text.remove_suffix(last.size());
  }
  return Value::string(text, self.marked);
}

Result<Value> replace(Run& run, const Value& self, std::string_view from, std::string_view to,
                      int64_t count) {
  std::string_view text = self.text();
  RETURN_IF_ERROR(run.charge_bytes(text.size()));
  std::string out;
  for (bool first = true; count != 0; --count, first = false) {
    size_t at = find_text(text, from);
    if (from.empty() && !first) {  // between characters, and at both ends
      if (text.empty()) break;
      at = first_code_point(text).bytes;
    }
    if (at == text.npos) break;
    RETURN_IF_ERROR(run.charge(static_cast<int64_t>(1 + (to.size() >> 6))));
    out += text.substr(0, at);
    out += to;
    RETURN_IF_ERROR(check_size(run, out));
    text.remove_prefix(at + from.size());
  }
  out += text;
  return text_of(run, out, self.marked);
}

Result<Value> center(Run& run, const Value& self, int64_t width, std::string_view fill) {
  const auto size = static_cast<int64_t>(count_code_points(self.text()));
  if (width <= size) return self;
  // Python puts the odd one to the left if the width is odd.
  const int64_t missing = width - size;
  const int64_t left = missing / 2 + (missing & width & 1);
  std::string out;
  RETURN_IF_ERROR(append_padded(
      run, self.text(), 0, {.fill = std::string(fill), .align = '>', .width = size + left}, &out));
  std::string all;
  RETURN_IF_ERROR(
      append_padded(run, out, 0, {.fill = std::string(fill), .align = '<', .width = width}, &all));
  return text_of(run, all, self.marked);
}

}  // namespace skein::jinja
