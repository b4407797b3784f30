#include "coordinator/text/pipeline.h"

#include <algorithm>

#include "coordinator/text/utf8.h"

namespace skein::text {

class PipelineStream final : public TextStream {
 public:
  PipelineStream(const Pipeline& pipeline, bool skip_special_tokens)
      : pipeline_(pipeline),
        skip_special_tokens_(skip_special_tokens),
        builder_(pipeline.parts_.decoder) {}

  std::string push(int32_t id) override {
    std::string out;
    pipeline_.push(id, skip_special_tokens_, &builder_, &out);
    return out;
  }
  std::string finish() override {
    std::string out;
    builder_.finish(&out);
    return out;
  }
  void drop_complete() override { builder_.drop_complete(); }

 private:
  const Pipeline& pipeline_;
  bool skip_special_tokens_;
  TextBuilder builder_;
};

Result<std::unique_ptr<Tokenizer>> Pipeline::build(PipelineParts parts) {
  std::vector<TokenFinder::Pattern> raw;
  std::vector<TokenFinder::Pattern> normalized;
  // Special tokens first: they win where two have the same text.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : parts.added) {
      if (token.special != special) continue;
      if (!token.normalized) {
        raw.push_back({token.content, token});
      } else {
        ASSIGN_OR_RETURN(std::string text, parts.normalizer.apply(token.content));
        normalized.push_back({std::move(text), token});
      }
    }
  }
  ASSIGN_OR_RETURN(TokenFinder raw_finder, TokenFinder::build(std::move(raw)));
  ASSIGN_OR_RETURN(TokenFinder normalized_finder, TokenFinder::build(std::move(normalized)));
  return std::unique_ptr<Tokenizer>(
      new Pipeline(std::move(parts), std::move(raw_finder), std::move(normalized_finder)));
}

Pipeline::Pipeline(PipelineParts parts, TokenFinder raw, TokenFinder normalized)
    : parts_(std::move(parts)),
      raw_(std::move(raw)),
      normalized_(std::move(normalized)),
      size_(parts_.vocabulary->size()) {
  for (const AddedToken& token : parts_.added) {
    added_by_id_.emplace(token.id, &token);
    added_by_content_.emplace(token.content, &token);
    size_ = std::max(size_, token.id + 1);
  }
}

Result<std::vector<int32_t>> Pipeline::encode(std::string_view text,
                                              bool add_special_tokens) const {
  if (text.size() > kTextBytesMax) {
    return invalid_argument("the text has " + std::to_string(text.size()) +
                            " bytes, over the tokenizer's limit of " +
                            std::to_string(kTextBytesMax));
  }
  if (!is_utf8(text)) return invalid_argument("the text is no valid UTF-8");
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = parts_.prefix;
  Bpe::Scratch scratch;
  for (const Fragment& fragment : raw_.split(text)) {
    if (fragment.id != Fragment::kText) {
      ids.push_back(fragment.id);
      continue;
    }
    const auto [begin, end] = fragment.range;
    RETURN_IF_ERROR(encode_text(text.substr(begin, end - begin), begin == 0, &scratch, &ids));
  }
  if (add_special_tokens) ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
  return ids;
}

Status Pipeline::encode_text(std::string_view text, bool at_start, Bpe::Scratch* scratch,
                             std::vector<int32_t>* ids) const {
  ASSIGN_OR_RETURN(const std::string normalized, parts_.normalizer.apply(text));
  for (const Fragment& fragment : normalized_.split(normalized)) {
    if (fragment.id != Fragment::kText) {
      ids->push_back(fragment.id);
      continue;
    }
    const auto [begin, end] = fragment.range;
    RETURN_IF_ERROR(
        encode_words(normalized.substr(begin, end - begin), at_start && begin == 0, scratch, ids));
  }
  return {};
}

Status Pipeline::encode_words(std::string text, bool at_start, Bpe::Scratch* scratch,
                              std::vector<int32_t>* ids) const {
  ASSIGN_OR_RETURN(const Pieces pieces, parts_.pre_tokenizer.apply(std::move(text), at_start));
  for (const auto& [begin, end] : pieces.ranges) {
    parts_.bpe->encode(std::string_view(pieces.text).substr(begin, end - begin), scratch, ids);
  }
  return {};
}

const AddedToken* Pipeline::added(int32_t id) const {
  const auto found = added_by_id_.find(id);
  return found == added_by_id_.end() ? nullptr : found->second;
}

void Pipeline::push(int32_t id, bool skip_special_tokens, TextBuilder* builder,
                    std::string* out) const {
  if (const AddedToken* token = added(id)) {
    if (token->special && skip_special_tokens) return;
    builder->push(token->content, parts_.added_are_literal, out);
  } else if (id >= 0 && id < parts_.vocabulary->size() && !parts_.vocabulary->token(id).empty()) {
    builder->push(parts_.vocabulary->token(id), false, out);
  }
}

std::string Pipeline::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string out;
  TextBuilder builder(parts_.decoder);
  for (const int32_t id : ids) push(id, skip_special_tokens, &builder, &out);
  builder.finish(&out);
  return out;
}

std::unique_ptr<TextStream> Pipeline::stream(bool skip_special_tokens) const {
  return std::make_unique<PipelineStream>(*this, skip_special_tokens);
}

std::string Pipeline::token_bytes(int32_t id) const {
  CHECK(id >= 0 && id < size_);
  if (const AddedToken* token = added(id)) {
    return parts_.added_are_literal ? token->content : parts_.decoder.bytes_of(token->content);
  }
  // An id between the vocabulary's end and an added token may have no token.
  return id < parts_.vocabulary->size() ? parts_.decoder.bytes_of(parts_.vocabulary->token(id))
                                        : std::string();
}

bool Pipeline::is_special(int32_t id) const {
  const AddedToken* token = added(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> Pipeline::find(std::string_view token) const {
  const auto found = added_by_content_.find(token);
  if (found != added_by_content_.end()) return found->second->id;
  return parts_.vocabulary->find(token);
}

}  // namespace skein::text
