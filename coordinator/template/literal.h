#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "coordinator/template/lexer.h"

namespace skein::jinja {

// Bytes of the number, integer or float, at the start of `text`; 0 if there is none. A float may
// not follow a dot.
size_t scan_integer(std::string_view text);
size_t scan_float(std::string_view text);

// Fill in the value. Errors say what is wrong, without the line.
Status parse_integer(std::string_view text, Token* token);
Status parse_float(std::string_view text, Token* token);
// What stands between the quotes, with Python's escapes decoded.
Result<std::string> decode_string(std::string_view body);

}  // namespace skein::jinja
