#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "coordinator/text/regex.h"
#include "coordinator/text/unicode.h"

namespace skein::text {

// What is done to each stretch of text between added tokens, step by step. Immutable, thread-safe.
class Normalizer {
 public:
  struct Form {
    NormalForm form;
  };
  struct Lowercase {};
  struct StripMarks {};
  struct StripSpace {
    bool left = true;
    bool right = true;
  };
  struct Prepend {
    std::string text;  // before a text that is not empty
  };
  struct Replace {
    Regex pattern;
    std::string with;
  };
  using Step = std::variant<Form, Lowercase, StripMarks, StripSpace, Prepend, Replace>;

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  // `json` is tokenizer.json's "normalizer", or null.
  static Result<Normalizer> parse(const Json* json);

  bool empty() const { return steps_.empty(); }
  Result<std::string> apply(std::string_view text) const;

 private:
  static Status parse_step(const Json& json, int depth, std::vector<Step>* steps);
  std::vector<Step> steps_;
};

}  // namespace skein::text
