#include "coordinator/text/normalizer.h"

#include "coordinator/text/json_fields.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

constexpr int kDepthMax = 8;
constexpr size_t kGrowthMax = 64;  // a replacement may be this many times longer than all the text

std::string stripped(std::string_view text, bool left, bool right) {
  size_t begin = text.size();
  size_t end = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (is_white_space(next_code_point(text, &at))) continue;
    begin = std::min(begin, start);
    end = at;
  }
  if (begin == text.size() && (left || right)) return {};
  if (!left) begin = 0;
  if (!right) end = text.size();
  return std::string(text.substr(begin, end - begin));
}

Result<std::string> replaced(std::string_view text, const Normalizer::Replace& step) {
  std::vector<Range> matches;
  RETURN_IF_ERROR(Regex::Search(step.pattern).all(text, &matches));
  if (matches.size() * step.with.size() > kGrowthMax * (text.size() + kGrowthMax)) {
    return resource_exhausted("the tokenizer's normalizer makes this text too long");
  }
  std::string out;
  out.reserve(text.size() + matches.size() * step.with.size());
  size_t copied = 0;
  for (const Range& match : matches) {
    out += text.substr(copied, match.begin - copied);
    out += step.with;
    copied = match.end;
  }
  out += text.substr(copied);
  return out;
}

struct Apply {
  std::string_view text;

  Result<std::string> operator()(const Normalizer::Form& step) const {
    return normalize(text, step.form);
  }
  Result<std::string> operator()(const Normalizer::Lowercase&) const { return lowercase(text); }
  Result<std::string> operator()(const Normalizer::StripMarks&) const {
    return without_marks(text);
  }
  Result<std::string> operator()(const Normalizer::StripSpace& step) const {
    return stripped(text, step.left, step.right);
  }
  Result<std::string> operator()(const Normalizer::Prepend& step) const {
    return text.empty() ? std::string() : step.text + std::string(text);
  }
  Result<std::string> operator()(const Normalizer::Replace& step) const {
    return replaced(text, step);
  }
};

}  // namespace

Result<Normalizer> Normalizer::parse(const Json* json) {
  std::vector<Step> steps;
  if (json != nullptr && !json->is_null()) RETURN_IF_ERROR(parse_step(*json, 0, &steps));
  return Normalizer(std::move(steps));
}

Status Normalizer::parse_step(const Json& json, int depth, std::vector<Step>* steps) {
  const JsonFields fields(json, "normalizer");
  ASSIGN_OR_RETURN(const std::string type, fields.string("type"));
  if (depth > kDepthMax) return fields.not_supported("such deep nesting");
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json::Array* const parts, fields.array("normalizers"));
    for (const Json& part : *parts) RETURN_IF_ERROR(parse_step(part, depth + 1, steps));
  } else if (type == "NFC") {
    steps->push_back(Form{NormalForm::kNfc});
  } else if (type == "NFD") {
    steps->push_back(Form{NormalForm::kNfd});
  } else if (type == "NFKC") {
    steps->push_back(Form{NormalForm::kNfkc});
  } else if (type == "NFKD") {
    steps->push_back(Form{NormalForm::kNfkd});
  } else if (type == "Lowercase") {
    steps->push_back(Lowercase{});
  } else if (type == "StripAccents") {
    steps->push_back(StripMarks{});
  } else if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, fields.boolean("strip_left", true));
    ASSIGN_OR_RETURN(const bool right, fields.boolean("strip_right", true));
    steps->push_back(StripSpace{left, right});
  } else if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string text, fields.string("prepend"));
    steps->push_back(Prepend{std::move(text)});
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(const std::string pattern, fields.pattern("pattern"));
    ASSIGN_OR_RETURN(std::string with, fields.string("content"));
    ASSIGN_OR_RETURN(Regex regex, Regex::compile(pattern));
    steps->push_back(Replace{std::move(regex), std::move(with)});
  } else {
    return fields.not_supported("the type " + quoted(type));
  }
  return {};
}

Result<std::string> Normalizer::apply(std::string_view text) const {
  std::string current(text);
  for (const Step& step : steps_) {
    ASSIGN_OR_RETURN(current, std::visit(Apply{current}, step));
  }
  return current;
}

}  // namespace skein::text
