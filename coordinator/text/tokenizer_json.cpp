#include <algorithm>

#include "coordinator/text/json_fields.h"
#include "coordinator/text/pipeline.h"
#include "model/quoted.h"

// Reads tokenizer.json as Hugging Face tokenizers do, and of tokenizer_config.json what
// transformers adds: the names of the begin and end tokens, and whether they go around a text.
// "truncation" and "padding" are left aside, since transformers sets them anew for each call.

namespace skein {
namespace text {
namespace {

constexpr int64_t kAddedMax = 1 << 16;

Result<std::unique_ptr<Vocabulary>> read_vocabulary(const JsonFields& model) {
  ASSIGN_OR_RETURN(const Json* const vocab, model.object("vocab"));
  std::vector<Vocabulary::Entry> entries;
  entries.reserve(vocab->as_object().size());
  for (const auto& [token, id] : vocab->as_object()) {
    if (!id.is_int()) return model.wrong("vocab", "tokens with integer ids");
    entries.push_back({token, id.as_int()});
  }
  auto vocabulary = Vocabulary::build(entries);
  if (!vocabulary.ok()) return vocabulary.status().within("tokenizer.json");
  return std::make_unique<Vocabulary>(std::move(vocabulary).value());
}

// Merges are "a b" or ["a", "b"].
Result<std::vector<Bpe::Rule>> read_merges(const JsonFields& model) {
  ASSIGN_OR_RETURN(const Json::Array* const merges, model.array("merges"));
  std::vector<Bpe::Rule> rules;
  rules.reserve(merges->size());
  for (const Json& merge : *merges) {
    if (merge.is_string()) {
      const std::string_view text = merge.as_string();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space == text.npos || text.find(' ', space + 1) != text.npos) {
        return model.wrong("merges", "pairs of tokens, but one is " + quoted(text));
      }
      rules.push_back({text.substr(0, space), text.substr(space + 1)});
    } else if (merge.is_array() && merge.as_array().size() == 2 &&
               merge.as_array()[0].is_string() && merge.as_array()[1].is_string()) {
      rules.push_back({merge.as_array()[0].as_string(), merge.as_array()[1].as_string()});
    } else {
      return model.wrong("merges", "pairs of tokens");
    }
  }
  return rules;
}

Status check_model(const JsonFields& model) {
  ASSIGN_OR_RETURN(const std::string type, model.string("type", "BPE"));
  if (type != "BPE") return model.not_supported("the type " + quoted(type) + " (only BPE is)");
  if (const Json* dropout = model.find("dropout"); dropout != nullptr && !dropout->is_null()) {
    if (!dropout->is_number()) return model.wrong("dropout", "a number");
    if (dropout->as_double() != 0) return model.not_supported("dropout, which is random,");
  }
  for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string text, model.string(affix, ""));
    if (!text.empty()) return model.not_supported(affix);
  }
  return {};
}

Status read_model(const Json& json, PipelineParts* parts) {
  const JsonFields model(json, "model");
  RETURN_IF_ERROR(check_model(model));
  ASSIGN_OR_RETURN(parts->vocabulary, read_vocabulary(model));
  Bpe::Options options;
  ASSIGN_OR_RETURN(options.ignore_merges, model.boolean("ignore_merges", false));
  ASSIGN_OR_RETURN(options.byte_fallback, model.boolean("byte_fallback", false));
  ASSIGN_OR_RETURN(options.fuse_unknown, model.boolean("fuse_unk", false));
  ASSIGN_OR_RETURN(const std::string unknown, model.string("unk_token", ""));
  if (!unknown.empty()) {
    options.unknown = parts->vocabulary->find(unknown);
    if (!options.unknown) return model.wrong("unk_token", "a token of the vocabulary");
  }
  ASSIGN_OR_RETURN(const std::vector<Bpe::Rule> rules, read_merges(model));
  auto bpe = Bpe::from_rules(*parts->vocabulary, rules, options);
  if (!bpe.ok()) return bpe.status().within("tokenizer.json");
  parts->bpe = std::make_unique<Bpe>(std::move(bpe).value());
  return {};
}

Result<AddedToken> read_added_token(const Json& json) {
  const JsonFields fields(json, "added_tokens");
  AddedToken token;
  ASSIGN_OR_RETURN(const int64_t id, fields.integer("id", -1));
  if (id < 0 || id >= kTokensMax) {
    return fields.wrong("id", "0 to " + std::to_string(kTokensMax - 1));
  }
  token.id = static_cast<int32_t>(id);
  ASSIGN_OR_RETURN(token.content, fields.string("content"));
  ASSIGN_OR_RETURN(token.special, fields.boolean("special", false));
  ASSIGN_OR_RETURN(token.normalized, fields.boolean("normalized", !token.special));
  ASSIGN_OR_RETURN(token.single_word, fields.boolean("single_word", false));
  ASSIGN_OR_RETURN(token.lstrip, fields.boolean("lstrip", false));
  ASSIGN_OR_RETURN(token.rstrip, fields.boolean("rstrip", false));
  return token;
}

// What an added token's id and content may be, given the vocabulary and the added tokens before it.
Status check_added_token(const PipelineParts& parts, const AddedToken& token) {
  const auto in_vocabulary = parts.vocabulary->find(token.content);
  if (in_vocabulary && *in_vocabulary != token.id) {
    return corrupt("tokenizer.json: the added token " + quoted(token.content) + " has the id " +
                   std::to_string(token.id) + " but the vocabulary says " +
                   std::to_string(*in_vocabulary));
  }
  if (!in_vocabulary && token.id < parts.vocabulary->size() &&
      !parts.vocabulary->token(token.id).empty()) {
    return corrupt("tokenizer.json: the added token " + quoted(token.content) + " has the id " +
                   std::to_string(token.id) + " of another token");
  }
  return {};
}

Status read_added_tokens(const Json* json, PipelineParts* parts) {
  if (json == nullptr || json->is_null()) return {};
  const int64_t count = json->is_array() ? static_cast<int64_t>(json->as_array().size()) : -1;
  if (count < 0 || count > kAddedMax) {
    return corrupt("tokenizer.json: \"added_tokens\" must be an array of at most " +
                   std::to_string(kAddedMax) + " tokens");
  }
  std::unordered_map<std::string, int32_t> ids;
  std::unordered_map<int32_t, std::string> contents;
  const int64_t highest = 2 * (parts->vocabulary->size() + count) + 4096;
  for (const Json& entry : json->as_array()) {
    ASSIGN_OR_RETURN(AddedToken token, read_added_token(entry));
    if (token.content.empty()) continue;
    RETURN_IF_ERROR(check_added_token(*parts, token));
    if (token.id > highest) {
      return corrupt("tokenizer.json: the added token " + quoted(token.content) + " has the id " +
                     std::to_string(token.id) + ", far above the number of tokens");
    }
    if (!ids.emplace(token.content, token.id).second ||
        !contents.emplace(token.id, token.content).second) {
      return corrupt("tokenizer.json: the added token " + quoted(token.content) + " or its id " +
                     std::to_string(token.id) + " stands twice");
    }
    parts->added.push_back(std::move(token));
  }
  return {};
}

// The ids of a template's special token.
Result<std::vector<int32_t>> special_ids(const JsonFields& fields, const Json& specials,
                                         const std::string& name) {
  const Json* entry = specials.find(name);
  const Json* ids = entry == nullptr ? nullptr : entry->find("ids");
  if (ids == nullptr || !ids->is_array()) {
    return fields.wrong("special_tokens", "an object with the ids of " + quoted(name));
  }
  std::vector<int32_t> result;
  for (const Json& id : ids->as_array()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() >= kTokensMax) {
      return fields.wrong("special_tokens", "an object with valid token ids");
    }
    result.push_back(static_cast<int32_t>(id.as_int()));
  }
  return result;
}

// "single": special tokens, the text once, special tokens.
Status read_template(const JsonFields& fields, PipelineParts* parts) {
  ASSIGN_OR_RETURN(const Json::Array* const single, fields.array("single"));
  ASSIGN_OR_RETURN(const Json* const specials, fields.object("special_tokens"));
  bool text_seen = false;
  for (const Json& piece : *single) {
    if (const Json* sequence = piece.find("Sequence")) {
      const Json* id = sequence->find("id");
      if (text_seen || id == nullptr || *id != Json("A")) {
        return fields.not_supported("a template with more than one text");
      }
      text_seen = true;
      continue;
    }
    const Json* special = piece.find("SpecialToken");
    const Json* id = special == nullptr ? nullptr : special->find("id");
    if (id == nullptr || !id->is_string()) return fields.wrong("single", "a list of pieces");
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                     special_ids(fields, *specials, id->as_string()));
    std::vector<int32_t>& side = text_seen ? parts->suffix : parts->prefix;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!text_seen) return fields.not_supported("a template without the text");
  return {};
}

Status read_post_processor(const Json* json, bool nested, PipelineParts* parts) {
  if (json == nullptr || json->is_null()) return {};
  const JsonFields fields(*json, "post_processor");
  ASSIGN_OR_RETURN(const std::string type, fields.string("type"));
  if (type == "ByteLevel") return {};  // changes offsets only
  if (type == "TemplateProcessing") {
    if (!parts->prefix.empty() || !parts->suffix.empty()) {
      return fields.not_supported("a second template");
    }
    return read_template(fields, parts);
  }
  if (type != "Sequence" || nested) return fields.not_supported("the type " + quoted(type));
  ASSIGN_OR_RETURN(const Json::Array* const processors, fields.array("processors"));
  for (const Json& part : *processors) RETURN_IF_ERROR(read_post_processor(&part, true, parts));
  return {};
}

// A token that tokenizer_config.json names by its text or as an object with "content".
Result<std::optional<int32_t>> named_token(const Json& config, std::string_view key,
                                           PipelineParts* parts) {
  const Json* value = config.find(key);
  if (value != nullptr && value->is_object()) value = value->find("content");
  if (value == nullptr || value->is_null()) return std::optional<int32_t>();
  if (!value->is_string()) {
    return corrupt("tokenizer_config.json: " + quoted(key) + " must name a token");
  }
  const std::string& name = value->as_string();
  const auto added = std::ranges::find(parts->added, name, &AddedToken::content);
  if (added != parts->added.end()) return std::optional<int32_t>(added->id);
  const auto id = parts->vocabulary->find(name);
  if (!id) {
    return corrupt("tokenizer_config.json: " + quoted(key) + " is " + quoted(name) +
                   ", which is no token of tokenizer.json");
  }
  // transformers makes special what the configuration names.
  parts->added.push_back({.id = *id, .content = name, .special = true});
  return id;
}

// transformers' switches override the template.
Status read_switches(const Json& config, PipelineParts* parts) {
  const JsonFields fields(config, "tokenizer_config.json");
  if (const Json* value = config.find("add_bos_token"); value != nullptr && value->is_bool()) {
    const bool has = parts->bos && !parts->prefix.empty() && parts->prefix.front() == *parts->bos;
    if (value->as_bool() && !parts->bos) {
      return corrupt("tokenizer_config.json: \"add_bos_token\" is true but there is no bos_token");
    }
    if (value->as_bool() && !has) parts->prefix.insert(parts->prefix.begin(), *parts->bos);
    if (!value->as_bool() && has) parts->prefix.erase(parts->prefix.begin());
  }
  if (const Json* value = config.find("add_eos_token"); value != nullptr && value->is_bool()) {
    const bool has = parts->eos && !parts->suffix.empty() && parts->suffix.back() == *parts->eos;
    if (value->as_bool() && !parts->eos) {
      return corrupt("tokenizer_config.json: \"add_eos_token\" is true but there is no eos_token");
    }
    if (value->as_bool() && !has) parts->suffix.push_back(*parts->eos);
    if (!value->as_bool() && has) parts->suffix.pop_back();
  }
  return {};
}

Status check_template_ids(const PipelineParts& parts) {
  for (const auto* ids : {&parts.prefix, &parts.suffix}) {
    for (const int32_t id : *ids) {
      const bool known = (id < parts.vocabulary->size() && !parts.vocabulary->token(id).empty()) ||
                         std::ranges::find(parts.added, id, &AddedToken::id) != parts.added.end();
      if (!known) {
        return corrupt("tokenizer.json: post_processor: there is no token with the id " +
                       std::to_string(id));
      }
    }
  }
  return {};
}

}  // namespace
}  // namespace text

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_json(const Json& tokenizer, const Json& config) {
  if (!tokenizer.is_object()) return corrupt("tokenizer.json must hold an object");
  const Json* model = tokenizer.find("model");
  if (model == nullptr || !model->is_object()) return corrupt("tokenizer.json has no \"model\"");
  text::PipelineParts parts;
  RETURN_IF_ERROR(text::read_model(*model, &parts));
  RETURN_IF_ERROR(text::read_added_tokens(tokenizer.find("added_tokens"), &parts));
  ASSIGN_OR_RETURN(parts.normalizer, text::Normalizer::parse(tokenizer.find("normalizer")));
  ASSIGN_OR_RETURN(parts.pre_tokenizer, text::PreTokenizer::parse(tokenizer.find("pre_tokenizer")));
  ASSIGN_OR_RETURN(parts.decoder, text::Decoder::parse(tokenizer.find("decoder")));
  RETURN_IF_ERROR(text::read_post_processor(tokenizer.find("post_processor"), false, &parts));
  if (config.is_object()) {
    ASSIGN_OR_RETURN(parts.bos, text::named_token(config, "bos_token", &parts));
    ASSIGN_OR_RETURN(parts.eos, text::named_token(config, "eos_token", &parts));
    RETURN_IF_ERROR(text::read_switches(config, &parts));
  }
  RETURN_IF_ERROR(text::check_template_ids(parts));
  return text::Pipeline::build(std::move(parts));
}

}  // namespace skein
