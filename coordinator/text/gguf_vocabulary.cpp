#include "coordinator/text/gguf_vocabulary.h"

#include <cmath>
#include <utility>

#include "coordinator/text/gguf_pre.h"
#include "coordinator/text/pipeline.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

constexpr char kMark[] = "\xE2\x96\x81";  // U+2581, SentencePiece's space

Status check_lengths(const GgufVocabulary& gguf) {
  const size_t tokens = gguf.tokens.size();
  if (tokens == 0 || tokens > static_cast<size_t>(kTokensMax)) {
    return corrupt("tokenizer.ggml.tokens has " + std::to_string(tokens) + " tokens; 1 to " +
                   std::to_string(kTokensMax) + " can be used");
  }
  if (!gguf.types.empty() && gguf.types.size() != tokens) {
    return corrupt("tokenizer.ggml.token_type has " + std::to_string(gguf.types.size()) +
                   " entries for " + std::to_string(tokens) + " tokens");
  }
  return {};
}

// A gap for an empty token, which nothing can become.
Result<std::unique_ptr<Vocabulary>> build_vocabulary(const GgufVocabulary& gguf) {
  std::vector<Vocabulary::Entry> entries;
  entries.reserve(gguf.tokens.size());
  for (size_t id = 0; id < gguf.tokens.size(); ++id) {
    if (!gguf.tokens[id].empty()) entries.push_back({gguf.tokens[id], static_cast<int64_t>(id)});
  }
  auto vocabulary = Vocabulary::build(entries);
  if (!vocabulary.ok()) return vocabulary.status().within("tokenizer.ggml.tokens");
  return std::make_unique<Vocabulary>(std::move(vocabulary).value());
}

std::vector<AddedToken> added_tokens(const GgufVocabulary& gguf) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < gguf.types.size(); ++id) {
    const int64_t type = gguf.types[id];
    const bool special = type == GgufVocabulary::kControl || type == GgufVocabulary::kUnknown;
    if (!special && type != GgufVocabulary::kUserDefined) continue;
    if (gguf.tokens[id].empty()) continue;
    added.push_back(
        {.id = static_cast<int32_t>(id), .content = gguf.tokens[id], .special = special});
  }
  return added;
}

Result<std::optional<int32_t>> checked_id(std::optional<int64_t> id, const char* name,
                                          const GgufVocabulary& gguf) {
  if (!id) return std::optional<int32_t>();
  if (*id < 0 || *id >= static_cast<int64_t>(gguf.tokens.size())) {
    return corrupt(std::string("tokenizer.ggml.") + name + " is " + std::to_string(*id) +
                   ", but there are " + std::to_string(gguf.tokens.size()) + " tokens");
  }
  return std::optional<int32_t>(static_cast<int32_t>(*id));
}

Status surround(bool add_bos, bool add_eos, PipelineParts* parts) {
  if (add_bos) {
    if (!parts->bos) return corrupt("tokenizer.ggml.bos_token_id is missing but must be added");
    parts->prefix = {*parts->bos};
  }
  if (add_eos) {
    if (!parts->eos) return corrupt("tokenizer.ggml.eos_token_id is missing but must be added");
    parts->suffix = {*parts->eos};
  }
  return {};
}

Result<std::vector<Bpe::Rule>> split_merges(const std::vector<std::string>& merges) {
  std::vector<Bpe::Rule> rules;
  rules.reserve(merges.size());
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      return corrupt("tokenizer.ggml.merges must hold pairs of tokens, but one is " +
                     quoted(merge));
    }
    const std::string_view text = merge;
    rules.push_back({text.substr(0, space), text.substr(space + 1)});
  }
  return rules;
}

Status read_byte_level(const GgufVocabulary& gguf, PipelineParts* parts) {
  ASSIGN_OR_RETURN(const GgufPre pre, gguf_pre(gguf.pre));
  std::vector<PreTokenizer::Step> steps;
  for (const std::string_view pattern : pre.patterns) {
    ASSIGN_OR_RETURN(Regex regex, Regex::compile(pattern));
    steps.push_back(PreTokenizer::Split{std::move(regex)});
  }
  steps.push_back(PreTokenizer::SpellBytes{});
  parts->pre_tokenizer = PreTokenizer(std::move(steps));
  if (gguf.merges.empty()) return corrupt("tokenizer.ggml.merges is missing");
  ASSIGN_OR_RETURN(const std::vector<Bpe::Rule> rules, split_merges(gguf.merges));
  Bpe::Options options;
  options.ignore_merges = pre.ignore_merges;
  options.last_rule_wins = false;
  ASSIGN_OR_RETURN(Bpe bpe, Bpe::from_rules(*parts->vocabulary, rules, options));
  parts->bpe = std::make_unique<Bpe>(std::move(bpe));
  parts->decoder = Decoder({.bytes = Decoder::Bytes::kSymbols});
  return surround(gguf.add_bos.value_or(pre.add_bos), gguf.add_eos.value_or(false), parts);
}

// Text between special tokens is one word with a mark for each space and, as a rule, one before it.
Status read_sentence_piece(const GgufVocabulary& gguf, PipelineParts* parts) {
  if (gguf.scores.size() != gguf.tokens.size()) {
    return corrupt("tokenizer.ggml.scores has " + std::to_string(gguf.scores.size()) +
                   " entries for " + std::to_string(gguf.tokens.size()) + " tokens");
  }
  for (const double score : gguf.scores) {
    if (std::isnan(score)) return corrupt("tokenizer.ggml.scores holds a NaN");
  }
  const bool space_prefix = gguf.add_space_prefix.value_or(true);
  ASSIGN_OR_RETURN(Regex space, Regex::compile(" "));
  std::vector<Normalizer::Step> steps;
  if (space_prefix) steps.push_back(Normalizer::Prepend{" "});
  steps.push_back(Normalizer::Replace{std::move(space), kMark});
  parts->normalizer = Normalizer(std::move(steps));

  Bpe::Options options;
  options.byte_fallback = true;
  ASSIGN_OR_RETURN(options.unknown, checked_id(gguf.unknown, "unknown_token_id", gguf));
  std::vector<double> scores = gguf.scores;
  scores.resize(parts->vocabulary->size());
  ASSIGN_OR_RETURN(Bpe bpe, Bpe::from_scores(*parts->vocabulary, scores, options));
  parts->bpe = std::make_unique<Bpe>(std::move(bpe));

  Decoder::Options decoder{.before = {Decoder::Replace{kMark, " "}}, .bytes = Decoder::Bytes::kRaw};
  if (space_prefix) decoder.text_start = {.character = " ", .left = 1};
  parts->decoder = Decoder(std::move(decoder));
  return surround(gguf.add_bos.value_or(true), gguf.add_eos.value_or(false), parts);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> tokenizer_from(GgufVocabulary gguf) {
  const bool byte_level = gguf.model == "gpt2";
  if (!byte_level && gguf.model != "llama") {
    return unsupported("tokenizer.ggml.model " + quoted(gguf.model) +
                       " is not supported; known are gpt2, llama");
  }
  RETURN_IF_ERROR(check_lengths(gguf));
  if (!byte_level) {  // SentencePiece's own ids
    if (!gguf.unknown) gguf.unknown = 0;
    if (!gguf.bos) gguf.bos = 1;
    if (!gguf.eos) gguf.eos = 2;
  }
  PipelineParts parts;
  ASSIGN_OR_RETURN(parts.vocabulary, build_vocabulary(gguf));
  ASSIGN_OR_RETURN(parts.bos, checked_id(gguf.bos, "bos_token_id", gguf));
  ASSIGN_OR_RETURN(parts.eos, checked_id(gguf.eos, "eos_token_id", gguf));
  parts.added = added_tokens(gguf);
  parts.added_are_literal = true;
  RETURN_IF_ERROR(byte_level ? read_byte_level(gguf, &parts) : read_sentence_piece(gguf, &parts));
  return Pipeline::build(std::move(parts));
}

}  // namespace skein::text
