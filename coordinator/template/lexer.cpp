#include "coordinator/template/lexer.h"

#include <algorithm>

#include "coordinator/template/literal.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

using Type = Token::Type;

size_t skip_space(std::string_view source, size_t at) {
  return source.size() - strip_left(source.substr(at)).size();
}

// Whether `what` stands at `at`.
bool has(std::string_view source, size_t at, std::string_view what) {
  return at <= source.size() && source.substr(at).starts_with(what);
}

// The end of "<name> %}" with its white-space control, from behind "{%" and its sign; 0 if it isn't
// there.
size_t match_keyword(std::string_view source, size_t at, std::string_view name) {
  at = skip_space(source, at);
  return has(source, at, name) ? skip_space(source, at + name.size()) : 0;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::deque<std::string>* strings)
      : source_(source), strings_(strings) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(lex_data());
    push(Type::kEnd, {});
    return std::move(tokens_);
  }

 private:
  Status fail(std::string_view what) const {
    return invalid_argument("line " + std::to_string(line_) + ": " + std::string(what));
  }

  void push(Type type, std::string_view text) {
    tokens_.push_back({.type = type, .line = line_, .text = text});
  }

  // Moves to `end`, counting lines.
  void advance(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + end, '\n'));
    at_ = end;
  }

  // The offset of the next "{%", "{{" or "{#".
  size_t next_tag() const {
    for (size_t at = at_; at + 1 < source_.size(); ++at) {
      if (source_[at] != '{') continue;
      const char kind = source_[at + 1];
      if (kind == '%' || kind == '{' || kind == '#') return at;
    }
    return source_.npos;
  }

  // The text in front of a tag after white-space control.
  std::string_view trimmed(std::string_view text, char sign, bool may_strip_line) const {
    if (sign == '-') return strip_right(text);
    if (sign == '+' || !may_strip_line) return text;
    const size_t line = text.rfind('\n') + 1;  // npos + 1 == 0
    const bool line_starting = at_ == 0 || source_[at_ - 1] == '\n';
    if (line == 0 && !line_starting) return text;
    return strip_left(text.substr(line)).empty() ? text.substr(0, line) : text;
  }

  void push_data(std::string_view text) {
    if (!text.empty()) push(Type::kData, text);
  }

  char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  Status lex_data() {
    const size_t tag = next_tag();
    if (tag == source_.npos) {
      push_data(source_.substr(at_));
      advance(source_.size());
      return {};
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    push_data(trimmed(source_.substr(at_, tag - at_), sign, kind != '{'));
    advance(tag);
    const size_t inside = tag + 2 + (sign != '\0' ? 1 : 0);
    if (kind == '#') return lex_comment(inside);
    if (kind == '%') {
      if (const size_t end = raw_begin_end(inside); end != 0) return lex_raw(end);
    }
    return lex_tag(inside, kind == '%');
  }

  size_t raw_begin_end(size_t inside) const {
    const size_t end = match_keyword(source_, inside, "raw");
    if (end == 0) return 0;
    if (has(source_, end, "-%}")) return skip_space(source_, end + 3);
    return has(source_, end, "%}") ? end + 2 : 0;
  }

  // The end of a closing mark that may take the newline behind it along.
  size_t after_newline(size_t end) const { return has(source_, end, "\n") ? end + 1 : end; }

  // Behind "-%}", "+%}" or "%}" at `at`, with the white space it takes; 0 if there is none.
  size_t block_end_at(size_t at) const {
    if (has(source_, at, "-%}")) return skip_space(source_, at + 3);
    if (has(source_, at, "+%}")) return at + 3;
    return has(source_, at, "%}") ? after_newline(at + 2) : 0;
  }

  Status lex_comment(size_t inside) {
    const size_t close = source_.find("#}", inside);
    if (close == source_.npos) return fail("a comment is not closed");
    const char sign = close > inside ? sign_at(close - 1) : '\0';
    const size_t end = close + 2;
    advance(sign == '-' ? skip_space(source_, end) : sign == '+' ? end : after_newline(end));
    return {};
  }

  Status lex_raw(size_t inside) {
    const int begin_line = line_;
    advance(inside);
    for (size_t tag = source_.find("{%", at_); tag != source_.npos;
         tag = source_.find("{%", tag + 1)) {
      const char sign = sign_at(tag + 2);
      const size_t keyword = match_keyword(source_, tag + 2 + (sign != '\0' ? 1 : 0), "endraw");
      const size_t end = keyword == 0 ? 0 : block_end_at(keyword);
      if (end == 0) continue;
      push_data(trimmed(source_.substr(at_, tag - at_), sign, true));
      advance(end);
      return {};
    }
    line_ = begin_line;
    return fail("{% raw %} is not closed");
  }

  Status lex_tag(size_t inside, bool is_block) {
    push(is_block ? Type::kBlockBegin : Type::kVariableBegin, {});
    const int begin_line = line_;
    advance(inside);
    std::string open;  // brackets to be closed
    while (at_ < source_.size()) {
      if (const size_t end = open.empty() ? tag_end(is_block) : 0; end != 0) {
        push(is_block ? Type::kBlockEnd : Type::kVariableEnd, {});
        advance(end);
        return {};
      }
      if (const size_t end = skip_space(source_, at_); end > at_) {
        advance(end);
      } else {
        RETURN_IF_ERROR(lex_token(&open));
      }
    }
    line_ = begin_line;
    return fail("a tag is not closed");
  }

  size_t tag_end(bool is_block) const {
    if (is_block) return block_end_at(at_);
    if (has(source_, at_, "-}}")) return skip_space(source_, at_ + 3);
    return has(source_, at_, "}}") ? at_ + 2 : 0;
  }

  Status lex_token(std::string* open) {
    const std::string_view rest = source_.substr(at_);
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (const size_t size = after_dot ? 0 : scan_float(rest); size > 0) {
      push(Type::kFloat, rest.substr(0, size));
      return finish(parse_float(rest.substr(0, size), &tokens_.back()), size);
    }
    if (const size_t size = scan_integer(rest); size > 0) {
      push(Type::kInteger, rest.substr(0, size));
      return finish(parse_integer(rest.substr(0, size), &tokens_.back()), size);
    }
    if (const size_t size = identifier_size(rest); size > 0) {
      push(Type::kName, rest.substr(0, size));
      return finish({}, size);
    }
    if (rest[0] == '\'' || rest[0] == '"') return lex_string(rest);
    return lex_operator(rest, open);
  }

  Status finish(const Status& status, size_t size) {
    if (!status.ok()) return fail(status.message());
    advance(at_ + size);
    return {};
  }

  static size_t identifier_size(std::string_view rest) {
    size_t size = 0;
    while (size < rest.size()) {
      const CodePoint c = first_code_point(rest.substr(size));
      if (!is_identifier_part(c.value)) break;
      size += c.bytes;
    }
    return size;
  }

  Status lex_string(std::string_view rest) {
    size_t end = 1;
    while (end < rest.size() && rest[end] != rest[0]) end += rest[end] == '\\' ? 2 : 1;
    if (end >= rest.size()) return fail("a string is not closed");
    auto decoded = decode_string(rest.substr(1, end - 1));
    if (!decoded.ok()) return fail(decoded.status().message());
    strings_->push_back(std::move(*decoded));
    push(Type::kString, strings_->back());
    return finish({}, end + 1);
  }

  Status lex_operator(std::string_view rest, std::string* open) {
    constexpr std::string_view kLong[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kShort = "+-/*%~[](){}><=.:|,;";
    size_t size = 0;
    if (std::find(std::begin(kLong), std::end(kLong), rest.substr(0, 2)) != std::end(kLong)) {
      size = 2;
    } else if (kShort.find(rest[0]) != kShort.npos) {
      size = 1;
    } else {
      return fail("unexpected character '" +
                  std::string(rest.substr(0, first_code_point(rest).bytes)) + "'");
    }
    const char c = rest[0];
    if (c == '(' || c == '[' || c == '{') {
      *open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open->empty() || open->back() != c) return fail(std::string("unexpected '") + c + "'");
      open->pop_back();
    }
    push(Type::kOperator, rest.substr(0, size));
    return finish({}, size);
  }

  std::string_view source_;
  std::deque<std::string>* strings_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else if (i + 1 >= source.size() || source[i + 1] != '\n') {
      out += '\n';
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

Result<std::vector<Token>> tokenize(std::string_view source, std::deque<std::string>* strings) {
  return Lexer(source, strings).run();
}

}  // namespace skein::jinja
