#include "coordinator/template/split.h"

#include <algorithm>

#include "coordinator/template/search.h"
#include "coordinator/template/string_methods.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

// Bytes of the first run of characters that are not white space.
size_t word_size(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const CodePoint c = first_code_point(text.substr(end));
    if (is_space(c.value)) break;
    end += c.bytes;
  }
  return end;
}

// Where the last run of characters that are not white space begins.
size_t last_word(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const size_t start = last_code_point(text.substr(0, begin));
    if (is_space(first_code_point(text.substr(start)).value)) break;
    begin = start;
  }
  return begin;
}

// Splits `rest` at white space; what is left after `most` splits goes into one piece.
Status split_words(std::string_view rest, int64_t most, bool marked, ListBuilder* pieces) {
  rest = strip_left(rest);
  for (; !rest.empty(); rest = strip_left(rest)) {
    const size_t size = most-- == 0 ? rest.size() : word_size(rest);
    RETURN_IF_ERROR(pieces->push(Value::string(rest.substr(0, size), marked)));
    rest.remove_prefix(size);
  }
  return {};
}

Status rsplit_words(std::string_view rest, int64_t most, bool marked, ListBuilder* pieces) {
  rest = strip_right(rest);
  for (; !rest.empty(); rest = strip_right(rest)) {
    const size_t begin = most-- == 0 ? 0 : last_word(rest);
    RETURN_IF_ERROR(pieces->push(Value::string(rest.substr(begin), marked)));
    rest = rest.substr(0, begin);
  }
  return {};
}

Result<std::string_view> separator_of(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view separator, call.string(0, ""));
  if (separator.empty()) return call.run.error("the separator is empty");
  return separator;
}

// Offsets of all separators from the left.
Result<std::vector<size_t>> find_all(Run& run, std::string_view text, std::string_view separator) {
  std::vector<size_t> found;
  for (size_t at = find_text(text, separator); at != text.npos;
       at = find_text(text, separator, at + separator.size())) {
    RETURN_IF_ERROR(run.charge(1));
    found.push_back(at);
  }
  return found;
}

Result<Value> partition(const Call& call, size_t at, size_t separator_size, bool from_right) {
  const std::string_view text = call.self.text();
  const auto piece = [&](std::string_view part) { return Value::string(part, call.self.marked); };
  if (at != text.npos) {
    return call.run.sequence(
        Kind::kTuple, std::array{piece(text.substr(0, at)), piece(text.substr(at, separator_size)),
                                 piece(text.substr(at + separator_size))});
  }
  const Value empty = piece("");
  return call.run.sequence(Kind::kTuple, from_right ? std::array{empty, empty, call.self}
                                                    : std::array{call.self, empty, empty});
}

bool is_line_end(uint32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

Result<Value> split_method(const Call& call) {
  Run& run = call.run;
  std::string_view rest = call.self.text();
  RETURN_IF_ERROR(run.charge_bytes(2 * rest.size()));
  ASSIGN_OR_RETURN(int64_t most, call.integer(1, -1));
  ListBuilder pieces(run);
  if (call.get(0) == nullptr || call.get(0)->is_none()) {
    RETURN_IF_ERROR(split_words(rest, most, call.self.marked, &pieces));
    return pieces.finish();
  }
  ASSIGN_OR_RETURN(const std::string_view separator, separator_of(call));
  while (most-- != 0) {
    const size_t at = find_text(rest, separator);
    if (at == rest.npos) break;
    RETURN_IF_ERROR(pieces.push(Value::string(rest.substr(0, at), call.self.marked)));
    rest.remove_prefix(at + separator.size());
  }
  RETURN_IF_ERROR(pieces.push(Value::string(rest, call.self.marked)));
  return pieces.finish();
}

Result<Value> rsplit_method(const Call& call) {
  Run& run = call.run;
  std::string_view rest = call.self.text();
  RETURN_IF_ERROR(run.charge_bytes(4 * rest.size()));
  ASSIGN_OR_RETURN(int64_t most, call.integer(1, -1));
  ListBuilder pieces(run);
  if (call.get(0) == nullptr || call.get(0)->is_none()) {
    RETURN_IF_ERROR(rsplit_words(rest, most, call.self.marked, &pieces));
  } else {
    ASSIGN_OR_RETURN(const std::string_view separator, separator_of(call));
    // Matches from the right are matches from the left of the mirrored text.
    const std::string backward(rest.rbegin(), rest.rend());
    const std::string mirrored(separator.rbegin(), separator.rend());
    ASSIGN_OR_RETURN(const std::vector<size_t> found, find_all(run, backward, mirrored));
    for (const size_t at : found) {
      if (most-- == 0) break;
      const size_t begin = backward.size() - at;
      RETURN_IF_ERROR(pieces.push(Value::string(rest.substr(begin), call.self.marked)));
      rest = rest.substr(0, begin - separator.size());
    }
    RETURN_IF_ERROR(pieces.push(Value::string(rest, call.self.marked)));
  }
  std::reverse(pieces.items().begin(), pieces.items().end());
  return pieces.finish();
}

Result<Value> split_lines(Run& run, const Value& self, bool keep_ends) {
  RETURN_IF_ERROR(run.charge_bytes(4 * self.size));
  ListBuilder lines(run);
  std::string_view rest = self.text();
  while (!rest.empty()) {
    size_t end = 0;
    size_t line_end = 0;
    while (end < rest.size() && line_end == 0) {
      const CodePoint c = first_code_point(rest.substr(end));
      if (is_line_end(c.value)) {
        line_end = rest.substr(end).starts_with("\r\n") ? 2 : c.bytes;
      } else {
        end += c.bytes;
      }
    }
    RETURN_IF_ERROR(
        lines.push(Value::string(rest.substr(0, end + (keep_ends ? line_end : 0)), self.marked)));
    rest.remove_prefix(end + line_end);
  }
  return lines.finish();
}

Result<Value> splitlines_method(const Call& call) {
  ASSIGN_OR_RETURN(const int64_t keep_ends, call.integer(0, 0));
  return split_lines(call.run, call.self, keep_ends != 0);
}

Result<Value> partition_method(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view separator, separator_of(call));
  RETURN_IF_ERROR(call.run.charge_bytes(call.self.size));
  return partition(call, find_text(call.self.text(), separator), separator.size(), false);
}

Result<Value> rpartition_method(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view separator, separator_of(call));
  RETURN_IF_ERROR(call.run.charge_bytes(call.self.size));
  return partition(call, rfind_text(call.self.text(), separator), separator.size(), true);
}

}  // namespace skein::jinja
