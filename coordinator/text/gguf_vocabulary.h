#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/text/tokenizer.h"

namespace skein::text {

// GGUF's tokenizer.ggml.* metadata. Nothing in it is checked yet.
struct GgufVocabulary {
  enum TokenType : int64_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };

  std::string model;  // "gpt2": BPE over bytes; "llama": SentencePiece's BPE
  std::string pre;    // of gpt2: how text is cut into words
  std::vector<std::string> tokens;
  std::vector<int64_t> types;       // or none: all normal
  std::vector<std::string> merges;  // of gpt2, "a b"
  std::vector<double> scores;       // of llama
  std::optional<bool> add_bos;      // absent: as llama.cpp has it for the kind
  std::optional<bool> add_eos;
  std::optional<bool> add_space_prefix;
  std::optional<int64_t> bos;
  std::optional<int64_t> eos;
  std::optional<int64_t> unknown;
};

// Encodes as llama.cpp does with its special tokens parsed. kUnsupported for a model or pre that is
// not known, listing those that are.
Result<std::unique_ptr<Tokenizer>> tokenizer_from(GgufVocabulary gguf);

}  // namespace skein::text
