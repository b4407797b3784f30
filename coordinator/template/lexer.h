#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace skein::jinja {

struct Token {
  enum class Type : uint8_t {
    kData,  // text between tags
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,  // `text` is decoded
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Type type = Type::kEnd;
  int line = 1;
  std::string_view text;
  int64_t integer = 0;
  double real = 0;

  bool is(Type other) const { return type == other; }
  bool is_operator(std::string_view what) const { return type == Type::kOperator && text == what; }
  bool is_name(std::string_view what) const { return type == Type::kName && text == what; }
};

// \r\n and \r become \n, and one newline at the end goes.
std::string normalize_newlines(std::string_view source);

// Splits a template as Jinja does with trim_blocks, lstrip_blocks and without
// keep_trailing_newline. The last token is kEnd. Texts of tokens point into `source`, which must be
// normalised and valid UTF-8, or into `strings`.
Result<std::vector<Token>> tokenize(std::string_view source, std::deque<std::string>* strings);

}  // namespace skein::jinja
