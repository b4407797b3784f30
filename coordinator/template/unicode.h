#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// UTF-8 text as a Python str sees it: a sequence of code points. All functions stay within invalid
// text, too.

namespace skein::jinja {

bool valid_utf8(std::string_view text);
// `text` with U+FFFD for each invalid byte.
std::string repair_utf8(std::string_view text);
bool is_ascii(std::string_view text);

// The code point at the start of `text` and its length in bytes. Requires: text is not empty.
struct CodePoint {
  uint32_t value;
  size_t bytes;
};
CodePoint first_code_point(std::string_view text);
void append_utf8(uint32_t code_point, std::string* out);

size_t count_code_points(std::string_view text);
// Byte offset of that code point, or text.size() if there are fewer.
size_t byte_offset(std::string_view text, size_t code_points);
// The start of the last code point. Requires: text is not empty.
size_t last_code_point(std::string_view text);

// Python's str.isspace() and the like, of one code point.
bool is_space(uint32_t c);
bool is_alpha(uint32_t c);
bool is_decimal(uint32_t c);
bool is_digit(uint32_t c);
bool is_numeric(uint32_t c);
bool is_alnum(uint32_t c);
bool is_upper(uint32_t c);
bool is_lower(uint32_t c);
bool is_title(uint32_t c);
bool is_printable(uint32_t c);
bool is_identifier_part(uint32_t c);

std::string_view strip_left(std::string_view text);  // of white space
std::string_view strip_right(std::string_view text);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string fold_case(std::string_view text);
// The first code point in title case, the rest in lower case.
std::string capitalize(std::string_view text);

}  // namespace skein::jinja
