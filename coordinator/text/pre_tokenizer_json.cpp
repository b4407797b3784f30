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

// Words, or what is neither word nor space, by Unicode's definition of \w (Oniguruma's is another).
constexpr std::string_view kWords =
    "(?:(?![\\u00B2\\u00B3\\u00B9\\u00BC-\\u00BE])[\\w\\u200C\\u200D])+"
    "|(?:[^\\w\\s\\u200C\\u200D]|[\\u00B2\\u00B3\\u00B9\\u00BC-\\u00BE])+";

// Hugging Face tokenizers know numbers up to Unicode 17 here,
constexpr std::string_view kNumber = "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";
// and punctuation as Unicode 8 had it.
constexpr std::string_view kPunctuation =
    "(?![\\u061D\\u09FD\\u0A76\\u0C77\\u0C84\\u1B4E\\u1B4F\\u1B7D-\\u1B7F\\u2E43-\\u2E4F\\u2E52-"
    "\\u2E5D"
    "\\x{10D6E}\\x{10EAD}\\x{10F55}-\\x{10F59}\\x{10F86}-\\x{10F89}\\x{113D4}\\x{113D5}\\x{113D7}"
    "\\x{113D8}"
    "\\x{1144B}-\\x{1144F}\\x{1145A}\\x{1145B}\\x{1145D}\\x{11660}-\\x{1166C}\\x{116B9}\\x{1183B}"
    "\\x{11944}-\\x{11946}\\x{119E2}\\x{11A3F}-\\x{11A46}\\x{11A9A}-\\x{11A9C}\\x{11A9E}-\\x{11AA2}"
    "\\x{11B00}-\\x{11B09}\\x{11BE1}\\x{11C41}-\\x{11C45}\\x{11C70}\\x{11C71}\\x{11EF7}\\x{11EF8}"
    "\\x{11F43}-\\x{11F4F}\\x{11FFF}\\x{12FF1}\\x{12FF2}\\x{16D6D}-\\x{16D6F}\\x{16E97}-\\x{16E9A}"
    "\\x{16FE2}\\x{1E5FF}\\x{1E95E}\\x{1E95F}])[\\p{P}!-/:-@\\[-`{-~\\u166D\\x{111C9}]";

Result<Behavior> behavior_of(const JsonFields& fields, std::string_view otherwise) {
  ASSIGN_OR_RETURN(const std::string name, fields.string("behavior", otherwise));
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return fields.wrong("behavior",
                      "one of Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
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
    return add_split(fields, kNumber, behavior, false, steps);
  }
  if (type == "Punctuation") {
    ASSIGN_OR_RETURN(const Behavior behavior, behavior_of(fields, "Isolated"));
    return add_split(fields, kPunctuation, behavior, false, steps);
  }
  if (type == "Whitespace") {
    return add_split(fields, kWords, Behavior::kRemoved, true, steps);
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
