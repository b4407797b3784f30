#pragma once

#include "coordinator/template/functions.h"
#include "coordinator/template/run.h"
#include "coordinator/template/value.h"

namespace skein::jinja {

// format % arguments
Result<Value> format_percent(Run& run, const Value& format, const Value& arguments);
// format.format(*arguments, **keywords), without nested fields and without attributes.
Result<Value> format_braces(Run& run, std::string_view format, const CallArguments& arguments);

// round(value, digits) of a float, exactly as Python rounds.
double round_real(double value, int64_t digits);

// How wide and in what shape one value is written.
struct FieldFormat {
  std::string fill = " ";
  char align = 0;  // < > ^ or = (fill between sign and digits); 0: by type
  char sign = '-';
  char grouping = 0;  // , or _
  bool alternate = false;
  int64_t width = 0;
  int precision = -1;
  char type = 0;
};

// `type` decides how `value` is written; fails where Python does.
Status append_formatted(Run& run, const Value& value, const FieldFormat& format, std::string* out);
Status append_padded(Run& run, std::string_view text, size_t sign_bytes, const FieldFormat& format,
                     std::string* out);

}  // namespace skein::jinja
