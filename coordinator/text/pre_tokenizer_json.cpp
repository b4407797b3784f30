#include "coordinator/text/json_fields.h"
#include "coordinator/text/pre_tokenizer.h"
#include "coordinator/text/regex_syntax.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

using Behavior = PreTokenizer::Behavior;
using Steps = std::vector<PreTokenizer::Step>;

constexpr int kDepthMax = 8;

Result<Behavior> behavior_of(const JsonFields& fields, std::string_view otherwise) {
  ASSIGN_OR_RETURN(const std::string name, fields.string("behavior", otherwise));
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return fields.wrong("behavior", "one of Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
}

Status add_split(const JsonFields& fields, std::string_view pattern, Behavior behavior, bool invert,
                 Steps* steps) {
  auto regex = Regex::compile(pattern);
  if (!regex.ok()) return regex.status().within("tokenizer.json: " + fields.part());
  steps->push_back(PreTokenizer::Split{std::move(regex).value(), behavior, invert});
  return {};
}

Status add_byte_level(const JsonFields& fields, Steps* steps) {
  ASSIGN_OR_RETURN(const bool prefix, fields.boolean("add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool split, fields.boolean("use_regex", true));
  if (prefix) steps->push_back(PreTokenizer::Prefix{" ", false});
  if (split) RETURN_IF_ERROR(add_split(fields, kGpt2Pattern, Behavior::kIsolated, false, steps));
  steps->push_back(PreTokenizer::SpellBytes{});
  return {};
}

Status add_metaspace(const JsonFields& fields, Steps* steps) {
  ASSIGN_OR_RETURN(const std::string mark, fields.string("replacement"));
  if (mark.empty() || character_length(mark[0]) != mark.size()) {
    return fields.wrong("replacement", "one character");
  }
  ASSIGN_OR_RETURN(const std::string scheme, fields.string("prepend_scheme", "always"));
  ASSIGN_OR_RETURN(const bool prefix, fields.boolean("add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool split, fields.boolean("split", true));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return fields.wrong("prepend_scheme", "always, first or never");
  }
  if (!prefix && scheme != "never" && fields.find("prepend_scheme") != nullptr) {
    return fields.wrong("add_prefix_space", "true where prepend_scheme is not never");
  }
  steps->push_back(PreTokenizer::ReplaceSpaces{mark});
  if (prefix && scheme != "never") steps->push_back(PreTokenizer::Prefix{mark, scheme == "first"});
  if (!split) return {};
  return add_split(fields, escaped_pattern(mark), Behavior::kMergedWithNext, false, steps);
}

Status add_step(const Json& json, int depth, Steps* steps) {
  const JsonFields fields(json, "pre_tokenizer");
  ASSIGN_OR_RETURN(const std::string type, fields.string("type"));
  if (depth > kDepthMax) return fields.not_supported("such deep nesting");
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json::Array* const parts, fields.array("pretokenizers"));
    for (const Json& part : *parts) RETURN_IF_ERROR(add_step(part, depth + 1, steps));
    return {};
  }
  if (type == "ByteLevel") return add_byte_level(fields, steps);
  if (type == "Metaspace") return add_metaspace(fields, steps);
  if (type == "Split") {
    ASSIGN_OR_RETURN(const std::string pattern, fields.pattern("pattern"));
    ASSIGN_OR_RETURN(const Behavior behavior, behavior_of(fields, "Isolated"));
    ASSIGN_OR_RETURN(const bool invert, fields.boolean("invert", false));
    return add_split(fields, pattern, behavior, invert, steps);
  }
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, fields.boolean("individual_digits", false));
    const Behavior behavior = individual ? Behavior::kIsolated : Behavior::kContiguous;
    return add_split(fields, "\\p{N}", behavior, false, steps);
  }
  if (type == "Punctuation") {
    ASSIGN_OR_RETURN(const Behavior behavior, behavior_of(fields, "Isolated"));
    return add_split(fields, "[\\p{P}!-/:-@\\[-`{-~]", behavior, false, steps);
  }
  if (type == "Whitespace") {
    return add_split(fields, "\\w+|[^\\w\\s]+", Behavior::kRemoved, true, steps);
  }
  if (type == "WhitespaceSplit") return add_split(fields, "\\s", Behavior::kRemoved, false, steps);
  return fields.not_supported("the type " + quoted(type));
}

}  // namespace

Result<PreTokenizer> PreTokenizer::parse(const Json* json) {
  Steps steps;
  if (json != nullptr && !json->is_null()) RETURN_IF_ERROR(add_step(*json, 0, &steps));
  return PreTokenizer(std::move(steps));
}

}  // namespace skein::text
