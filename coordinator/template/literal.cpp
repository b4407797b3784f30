#include "coordinator/template/literal.h"

#include <algorithm>
#include <charconv>

#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

bool is_digit_of(char c, int base) {
  if (c >= '0' && c <= '9') return c - '0' < base;
  const char lower = static_cast<char>(c | 0x20);
  return base == 16 && lower >= 'a' && lower <= 'f';
}

// (_?digit)*
size_t scan_digits(std::string_view text, size_t at, int base) {
  while (at < text.size()) {
    const size_t digit = at + (text[at] == '_' ? 1 : 0);
    if (digit >= text.size() || !is_digit_of(text[digit], base)) break;
    at = digit + 1;
  }
  return at;
}

// digit(_?digit)*, or `at` itself
size_t scan_number(std::string_view text, size_t at) {
  if (at >= text.size() || !is_digit_of(text[at], 10)) return at;
  return scan_digits(text, at, 10);
}

int base_of(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 10;
  switch (text[1] | 0x20) {
    case 'b': return 2;
    case 'o': return 8;
    case 'x': return 16;
  }
  return 10;
}

std::string without_underscores(std::string_view text) {
  std::string out(text);
  std::erase(out, '_');
  return out;
}

// The code of an escape of fixed length, \xhh, \uhhhh or \Uhhhhhhhh.
Status decode_hex(std::string_view* rest, size_t digits, std::string* out) {
  uint32_t code = 0;
  const std::string_view text = rest->substr(0, digits);
  const auto end = std::from_chars(text.data(), text.data() + text.size(), code, 16).ptr;
  if (text.size() < digits || end != text.data() + digits) {
    return invalid_argument("a \\x, \\u or \\U escape is cut short");
  }
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
    return invalid_argument("a \\u or \\U escape names no character");
  }
  append_utf8(code, out);
  rest->remove_prefix(digits);
  return {};
}

void decode_octal(std::string_view* rest, std::string* out) {
  uint32_t code = 0;
  size_t digits = 0;
  while (digits < 3 && digits < rest->size() && is_digit_of((*rest)[digits], 8)) {
    code = code * 8 + static_cast<uint32_t>((*rest)[digits++] - '0');
  }
  append_utf8(code, out);
  rest->remove_prefix(digits);
}

// `rest` begins behind the backslash and is not empty.
Status decode_escape(std::string_view* rest, std::string* out) {
  constexpr std::string_view kLetters = "\n\\'\"abfnrtv";
  constexpr std::string_view kMeaning[] = {"",   "\\", "'",  "\"", "\a", "\b",
                                           "\f", "\n", "\r", "\t", "\v"};
  const char letter = rest->front();
  if (const size_t known = kLetters.find(letter); known != kLetters.npos) {
    *out += kMeaning[known];
    rest->remove_prefix(1);
    return {};
  }
  if (is_digit_of(letter, 8)) {
    decode_octal(rest, out);
    return {};
  }
  const size_t digits = letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
  if (digits > 0) {
    rest->remove_prefix(1);
    return decode_hex(rest, digits, out);
  }
  if (letter == 'N') return invalid_argument("\\N escapes are not supported");
  *out += '\\';
  return {};
}

}  // namespace

size_t scan_integer(std::string_view text) {
  if (text.empty() || !is_digit_of(text[0], 10)) return 0;
  const int base = base_of(text);
  if (base != 10) {
    const size_t end = scan_digits(text, 2, base);
    if (end > 2) return end;
  }
  if (text[0] != '0') return scan_digits(text, 1, 10);
  size_t end = 1;
  while (end < text.size()) {
    const size_t zero = end + (text[end] == '_' ? 1 : 0);
    if (zero >= text.size() || text[zero] != '0') break;
    end = zero + 1;
  }
  return end;
}

size_t scan_float(std::string_view text) {
  const size_t whole = scan_number(text, 0);
  if (whole == 0) return 0;
  size_t end = whole;
  if (end < text.size() && text[end] == '.') {
    const size_t fraction = scan_number(text, end + 1);
    if (fraction > end + 1) end = fraction;
  }
  if (end < text.size() && (text[end] | 0x20) == 'e') {
    const size_t sign = end + 1;
    const bool has_sign = sign < text.size() && (text[sign] == '+' || text[sign] == '-');
    const size_t first = sign + (has_sign ? 1 : 0);
    const size_t exponent = scan_number(text, first);
    if (exponent > first) end = exponent;
  }
  return end > whole ? end : 0;
}

Status parse_integer(std::string_view text, Token* token) {
  const std::string digits = without_underscores(text);
  const int base = base_of(digits);
  const char* const begin = digits.data() + (base == 10 ? 0 : 2);
  const auto [end, error] =
      std::from_chars(begin, digits.data() + digits.size(), token->integer, base);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return invalid_argument("the integer " + digits.substr(0, 40) + " is too large");
  }
  return {};
}

Status parse_float(std::string_view text, Token* token) {
  const std::string digits = without_underscores(text);
  const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), token->real).ec;
  if (error != std::errc()) {
    return invalid_argument("the number " + digits.substr(0, 40) + " is out of range");
  }
  return {};
}

Result<std::string> decode_string(std::string_view body) {
  std::string out;
  out.reserve(body.size());
  while (!body.empty()) {
    const size_t plain = std::min(body.find('\\'), body.size());
    out += body.substr(0, plain);
    body.remove_prefix(plain);
    if (body.empty()) break;
    body.remove_prefix(1);
    if (body.empty()) return invalid_argument("a string ends in a backslash");
    RETURN_IF_ERROR(decode_escape(&body, &out));
  }
  return out;
}

}  // namespace skein::jinja
