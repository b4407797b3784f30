#include "coordinator/text/regex_syntax.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "coordinator/text/unicode_additions.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

constexpr size_t kTranslatedBytesMax = 256 << 10;

// General categories mean the same to both.
constexpr std::array<std::string_view, 38> kCategories = {
    "Any", "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu",
    "M",   "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf",
    "Pi",  "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};

// Scripts by their own property: a bare \p{Han} would mean script extensions to PCRE2.
constexpr std::array<std::string_view, 24> kScripts = {
    "Arabic", "Armenian", "Bengali",  "Bopomofo",  "Cyrillic", "Devanagari", "Ethiopic", "Georgian",
    "Greek",  "Gujarati", "Gurmukhi", "Han",       "Hangul",   "Hebrew",     "Hiragana", "Katakana",
    "Khmer",  "Lao",      "Latin",    "Mongolian", "Myanmar",  "Tamil",      "Thai",     "Tibetan"};

// The later members of a category as the insides of a character class.
std::string later_members(std::string_view category) {
  std::string members;
  char text[32];
  for (const auto& [two_letters, first, last] : unicode_additions()) {
    if (!two_letters.starts_with(category)) continue;
    std::snprintf(text, sizeof text, "\\x{%X}-\\x{%X}", static_cast<unsigned>(first),
                  static_cast<unsigned>(last));
    members += text;
  }
  return members;
}

std::string later_of_script(std::string_view script) {
  if (script == "Han") return "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}";
  if (script == "Hiragana") return "\\x{1B132}";
  if (script == "Katakana") return "\\x{1B155}";
  return {};
}

std::string word_members() {
  // Oniguruma counts the fractions and powers of Latin-1 in.
  return "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE" + later_members("L") +
         later_members("M") + later_members("Nd");
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_alphanumeric(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (at_ < pattern_.size()) {
      RETURN_IF_ERROR(in_class_ ? class_item() : item());
      if (out_.size() > kTranslatedBytesMax) return refuse("too many character classes");
    }
    if (in_class_) return refuse("a character class without its end");
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  bool follows(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void copy(size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }
  void replace(size_t count, std::string_view with) {
    out_ += with;
    at_ += count;
  }
  Status refuse(const std::string& what) const {
    return unsupported("the regular expression has " + what + " at byte " + std::to_string(at_) +
                       ", which is not supported");
  }

  Status item() {
    switch (peek()) {
      case '\\': return escape();
      case '[': return open_class();
      case '(': return group();
      case '{': return braces();
      default: copy(1); return {};
    }
  }

  Status open_class() {
    const size_t open = peek(1) == '^' ? 2 : 1;
    copy(open);
    if (peek() == ']') return refuse("an empty or ']'-first character class");
    in_class_ = true;
    return {};
  }

  Status class_item() {
    if (peek() == '\\') return escape();
    if (peek() == '[') return refuse("a nested or POSIX character class");
    if (follows("&&")) return refuse("an intersection of character classes (&&)");
    if (peek() == ']') in_class_ = false;
    copy(1);
    return {};
  }

  Status group() {
    if (follows("(*")) return refuse("a control verb \"(*\"");
    if (!follows("(?")) {
      copy(1);
      return {};
    }
    for (const std::string_view kind : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (follows(kind)) {
        copy(kind.size());
        return {};
      }
    }
    return options();
  }

  // "(?i:", "(?i-m:" and, at the start of the pattern only, "(?i)". Ruby's m is PCRE2's s.
  Status options() {
    const bool at_start = at_ == 0;
    std::string letters = "(?";
    size_t length = 2;
    for (; peek(length) == 'i' || peek(length) == 'm' || peek(length) == '-'; ++length) {
      letters += peek(length) == 'm' ? 's' : peek(length);
    }
    const char end = peek(length);
    if (end != ':' && !(end == ')' && at_start)) {
      return refuse("the group " + quoted(pattern_.substr(at_, 4)));
    }
    replace(length + 1, letters + end);
    return {};
  }

  // "{n}", "{n,}", "{n,m}", "{,m}", or braces that are themselves.
  Status braces() {
    size_t length = 1;
    while (is_digit(peek(length))) ++length;
    const bool has_min = length > 1;
    const bool has_comma = peek(length) == ',';
    size_t max_digits = 0;
    if (has_comma) {
      for (++length; is_digit(peek(length)); ++length) ++max_digits;
    }
    if (peek(length) != '}' || (!has_min && max_digits == 0)) {
      replace(1, "\\{");
      return {};
    }
    const char next = peek(length + 1);
    if (next == '+' || (next == '?' && !has_comma)) {
      return refuse(std::string("the quantifier \"}") + next + "\"");
    }
    out_ += has_min ? "{" : "{0";
    ++at_;
    copy(length);
    return {};
  }

  Status escape() {
    const char c = peek(1);
    switch (c) {
      case 's': replace(2, "\\p{White_Space}"); return {};
      case 'S': replace(2, "\\P{White_Space}"); return {};
      case 'd': return members_of("Nd", later_members("Nd"), false, 2);
      case 'D': return members_of("Nd", later_members("Nd"), true, 2);
      case 'w':
      case 'W':
      case 'b':
      case 'B': return word_escape(c);
      case 'v': replace(2, "\\x0b"); return {};
      case 'A':
      case 'z':
      case 'Z':
        if (in_class_) return refuse(std::string("\"\\") + c + "\" in a character class");
        copy(2);
        return {};
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e': copy(2); return {};
      case 'p':
      case 'P': return property();
      case 'x':
      case 'u': return code_point(c);
      default: return literal(c);
    }
  }

  Status word_escape(char c) {
    const std::string members = word_members();
    if (in_class_) {
      if (c == 'w') {
        replace(2, members);
      } else if (c == 'b') {
        replace(2, "\\x08");
      } else {
        return refuse(std::string("\"\\") + c + "\" in a character class");
      }
      return {};
    }
    const std::string word = "[" + members + "]";
    switch (c) {
      case 'w': replace(2, word); break;
      case 'W': replace(2, "[^" + members + "]"); break;
      case 'b':
        replace(2, "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))");
        break;
      default:
        replace(2, "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))");
    }
    return {};
  }

  Status property() {
    const size_t end = peek(2) == '{' ? pattern_.find('}', at_) : std::string_view::npos;
    if (end == std::string_view::npos) return refuse("a property without braces");
    std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
    bool negated = peek(1) == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const size_t length = end + 1 - at_;
    if (std::ranges::find(kCategories, name) != kCategories.end()) {
      return members_of(std::string(name), later_members(name), negated, length);
    }
    if (std::ranges::find(kScripts, name) == kScripts.end()) {
      return refuse("the property " + quoted(name));
    }
    return members_of("sc:" + std::string(name), later_of_script(name), negated, length);
  }

  // A property with its later members, which in a class cannot be taken away from its complement.
  Status members_of(const std::string& name, const std::string& later, bool negated,
                    size_t length) {
    const std::string plain = (negated ? "\\P{" : "\\p{") + name + "}";
    if (in_class_) {
      replace(length, negated ? plain : plain + later);
    } else if (later.empty()) {
      replace(length, plain);
    } else {
      replace(length, (negated ? "[^\\p{" : "[\\p{") + name + "}" + later + "]");
    }
    return {};
  }

  // "\x0A", "\x{2581}", "\u2581". A lone "\xE2" would be a byte of UTF-8.
  Status code_point(char kind) {
    const bool braced = kind == 'x' && peek(2) == '{';
    const size_t first = at_ + (braced ? 3 : 2);
    size_t end = first;
    const size_t digits_max = braced ? 6 : kind == 'x' ? 2 : 4;
    while (end < pattern_.size() && end < first + digits_max && is_hex(pattern_[end])) ++end;
    const std::string digits(pattern_.substr(first, end - first));
    const bool well_formed = braced
                                 ? !digits.empty() && end < pattern_.size() && pattern_[end] == '}'
                                 : digits.size() == digits_max;
    if (!well_formed) return refuse(std::string("an ill-formed \"\\") + kind + "\"");
    uint32_t value = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    const bool byte = kind == 'x' && !braced && value > 0x7F;
    if (byte || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      return refuse(std::string("a \"\\") + kind + "\" that is no character");
    }
    replace(end + (braced ? 1 : 0) - at_, "\\x{" + digits + "}");
    return {};
  }

  Status literal(char c) {
    if (c == '\0') return refuse("a backslash at its end");
    if (is_alphanumeric(c)) return refuse(std::string("the escape \"\\") + c + "\"");
    if (static_cast<unsigned char>(c) < 0x80) {
      copy(2);
    } else {
      ++at_;
      copy(character_length(c));
    }
    return {};
  }

  std::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Result<std::string> pcre2_pattern(std::string_view oniguruma) {
  if (!is_utf8(oniguruma)) return invalid_argument("a regular expression is no valid UTF-8");
  // Only the first position of a run of spaces can match, and saying so keeps the search linear.
  if (oniguruma == "\\s+$") return std::string("(?<!\\p{White_Space})\\p{White_Space}+$");
  return Translator(oniguruma).run();
}

std::string escaped_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_alphanumeric(c)) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace skein::text
