#include "coordinator/template/unicode.h"

#include <unicode/ucasemap.h>
#include <unicode/uchar.h>

#include <algorithm>

namespace skein::jinja {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool is_tail(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The valid sequence at the start of `text`, or zero bytes.
CodePoint decode(std::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (bytes == 0 || text.size() < bytes) return {0, 0};
  uint32_t value = lead & (0xFFu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if (!is_tail(text[i])) return {0, 0};
    value = value << 6 | (byte(i) & 0x3F);
  }
  const bool overlong = (bytes == 3 && value < 0x800) || (bytes == 4 && value < 0x10000);
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (overlong || surrogate || value > 0x10FFFF) return {0, 0};
  return {value, bytes};
}

using CaseMapping = int32_t (*)(const UCaseMap*, char*, int32_t, const char*, int32_t, UErrorCode*);

std::string map_case(std::string_view text, uint32_t options, CaseMapping mapping) {
  UErrorCode error = U_ZERO_ERROR;
  UCaseMap* const map = ucasemap_open("", options, &error);
  std::string out(text.size() + 16, '\0');
  for (int attempt = 0; attempt < 2 && map != nullptr; ++attempt) {
    error = U_ZERO_ERROR;
    const int32_t size = mapping(map, out.data(), static_cast<int32_t>(out.size()), text.data(),
                                 static_cast<int32_t>(text.size()), &error);
    out.resize(static_cast<size_t>(size));
    if (error != U_BUFFER_OVERFLOW_ERROR) break;
  }
  ucasemap_close(map);
  return out;
}

int32_t to_title(const UCaseMap* map, char* out, int32_t room, const char* text, int32_t size,
                 UErrorCode* error) {
  return ucasemap_utf8ToTitle(const_cast<UCaseMap*>(map), out, room, text, size, error);
}

int32_t fold(const UCaseMap* map, char* out, int32_t room, const char* text, int32_t size,
             UErrorCode* error) {
  return ucasemap_utf8FoldCase(map, out, room, text, size, error);
}

char ascii_upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }
char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

std::string map_ascii(std::string_view text, char (*mapping)(char)) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), mapping);
  return out;
}

UNumericType numeric_type(uint32_t c) {
  return static_cast<UNumericType>(
      u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE));
}

bool in_category(uint32_t c, uint32_t mask) {
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & mask) != 0;
}

}  // namespace

bool valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = decode(text).bytes;
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bytes = decode(text).bytes;
    out += bytes == 0 ? kReplacement : text.substr(0, bytes);
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return out;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

CodePoint first_code_point(std::string_view text) {
  const CodePoint decoded = decode(text);
  return decoded.bytes == 0 ? CodePoint{0xFFFD, 1} : decoded;
}

void append_utf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
  } else if (c < 0x800) {
    *out += static_cast<char>(0xC0 | c >> 6);
    *out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    *out += static_cast<char>(0xE0 | c >> 12);
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    *out += static_cast<char>(0xF0 | c >> 18);
    *out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    *out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_tail(c); }));
}

size_t byte_offset(std::string_view text, size_t code_points) {
  size_t offset = 0;
  for (; code_points > 0 && offset < text.size(); --code_points) {
    ++offset;
    while (offset < text.size() && is_tail(text[offset])) ++offset;
  }
  return offset;
}

size_t last_code_point(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && is_tail(text[start])) --start;
  return start;
}

bool is_space(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_alpha(uint32_t c) { return in_category(c, U_GC_L_MASK); }
bool is_decimal(uint32_t c) { return numeric_type(c) == U_NT_DECIMAL; }
bool is_digit(uint32_t c) {
  return numeric_type(c) == U_NT_DECIMAL || numeric_type(c) == U_NT_DIGIT;
}
bool is_numeric(uint32_t c) { return numeric_type(c) != U_NT_NONE; }
bool is_alnum(uint32_t c) { return is_alpha(c) || is_numeric(c); }
bool is_upper(uint32_t c) { return u_isUUppercase(static_cast<UChar32>(c)); }
bool is_lower(uint32_t c) { return u_isULowercase(static_cast<UChar32>(c)); }
bool is_title(uint32_t c) { return in_category(c, U_GC_LT_MASK); }
bool is_printable(uint32_t c) { return c == ' ' || !in_category(c, U_GC_C_MASK | U_GC_Z_MASK); }

bool is_identifier_part(uint32_t c) {
  if (c < 0x80) return is_alnum(c) || c == '_';
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_XID_CONTINUE);
}

std::string_view strip_left(std::string_view text) {
  while (!text.empty()) {
    const CodePoint c = first_code_point(text);
    if (!is_space(c.value)) break;
    text.remove_prefix(c.bytes);
  }
  return text;
}

std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    const size_t start = last_code_point(text);
    if (!is_space(first_code_point(text.substr(start)).value)) break;
    text = text.substr(0, start);
  }
  return text;
}

std::string to_upper(std::string_view text) {
  return is_ascii(text) ? map_ascii(text, ascii_upper) : map_case(text, 0, ucasemap_utf8ToUpper);
}

std::string to_lower(std::string_view text) {
  return is_ascii(text) ? map_ascii(text, ascii_lower) : map_case(text, 0, ucasemap_utf8ToLower);
}

std::string fold_case(std::string_view text) {
  return is_ascii(text) ? map_ascii(text, ascii_lower) : map_case(text, U_FOLD_CASE_DEFAULT, fold);
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  if (is_ascii(text)) {
    std::string out = map_ascii(text, ascii_lower);
    out[0] = ascii_upper(out[0]);
    return out;
  }
  return map_case(text, U_TITLECASE_WHOLE_STRING | U_TITLECASE_NO_BREAK_ADJUSTMENT, to_title);
}

}  // namespace skein::jinja
