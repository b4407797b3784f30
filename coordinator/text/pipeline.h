#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "coordinator/text/added_tokens.h"
#include "coordinator/text/bpe.h"
#include "coordinator/text/decoder.h"
#include "coordinator/text/normalizer.h"
#include "coordinator/text/pre_tokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/vocabulary.h"

namespace skein::text {

inline constexpr size_t kTextBytesMax = size_t{64} << 20;

// The parts of a tokenizer, as a file described them.
struct PipelineParts {
  std::unique_ptr<Vocabulary> vocabulary;
  std::vector<AddedToken> added;  // no content twice
  // Added tokens are text as they stand when decoding (GGUF); otherwise the decoder reads them too.
  bool added_are_literal = false;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<Bpe> bpe;  // over `vocabulary`
  Decoder decoder;
  std::vector<int32_t> prefix;  // what add_special_tokens puts around
  std::vector<int32_t> suffix;
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
};

// Added tokens, normalizer, pre-tokenizer, BPE; and the decoder for the way back. Immutable,
// thread-safe.
class Pipeline : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> build(PipelineParts parts);

  Result<std::vector<int32_t>> encode(std::string_view text,
                                      bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  std::unique_ptr<TextStream> stream(bool skip_special_tokens) const override;
  std::string token_bytes(int32_t id) const override;
  bool is_special(int32_t id) const override;
  std::optional<int32_t> find(std::string_view token) const override;
  int32_t size() const override { return size_; }
  std::optional<int32_t> bos() const override { return parts_.bos; }
  std::optional<int32_t> eos() const override { return parts_.eos; }

 private:
  friend class PipelineStream;
  Pipeline(PipelineParts parts, TokenFinder raw, TokenFinder normalized);

  const AddedToken* added(int32_t id) const;
  Status encode_text(std::string_view text, bool at_start, Bpe::Scratch* scratch,
                     std::vector<int32_t>* ids) const;
  Status encode_words(std::string text, bool at_start, Bpe::Scratch* scratch,
                      std::vector<int32_t>* ids) const;
  // One id's part of decode().
  void push(int32_t id, bool skip_special_tokens, TextBuilder* builder, std::string* out) const;

  PipelineParts parts_;
  TokenFinder raw_;         // in the text as it came
  TokenFinder normalized_;  // in the normalised text
  std::unordered_map<int32_t, const AddedToken*> added_by_id_;
  std::unordered_map<std::string_view, const AddedToken*> added_by_content_;
  int32_t size_ = 0;
};

}  // namespace skein::text
