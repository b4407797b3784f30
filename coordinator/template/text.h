#pragma once

#include <string>
#include <string_view>

#include "coordinator/template/run.h"
#include "coordinator/template/value.h"

// How values read as text.

namespace skein::jinja {

// str(value), as a string value.
Result<Value> to_text(Run& run, const Value& value);
Status append_text(Run& run, const Value& value, std::string* out);
// repr(value)
Status append_repr(Run& run, const Value& value, std::string* out);
// repr of a float: the shortest text that reads back the same.
std::string real_to_text(double value);
// What is wrong when an undefined value is used.
std::string undefined_message(const Value& value);
// Fails with undefined_message() if the value is undefined.
Status check_defined(Run& run, const Value& value);

// As markupsafe.escape: & < > " ' become entities; marked text stays. The result is marked.
Result<Value> escape_html(Run& run, const Value& value);

// Room left in a text that is being built: fails once it is larger than the memory limit.
Status check_size(Run& run, const std::string& text);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;
  std::string indent{};  // of one level, if pretty
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// As Python's json.dumps.
Status append_json_text(Run& run, const Value& value, const JsonStyle& style, std::string* out);

}  // namespace skein::jinja
