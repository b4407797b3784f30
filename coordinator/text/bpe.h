#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "coordinator/text/candidate_queue.h"
#include "coordinator/text/pair_table.h"
#include "coordinator/text/vocabulary.h"

namespace skein::text {

inline constexpr size_t kMergesMax = size_t{1} << 22;

// Byte pair encoding of one word after another: O(n log n) in a word's length, whatever the word.
// Immutable, thread-safe; the vocabulary must outlive it.
class Bpe {
 public:
  // Two tokens whose text is to be joined. The earlier in a list, the sooner.
  struct Rule {
    std::string_view left;
    std::string_view right;
  };

  struct Options {
    bool ignore_merges = false;  // a word that is a token is that token
    // For a character that is no token: its bytes' tokens ("<0x0A>"), else `unknown`, else nothing.
    bool byte_fallback = false;
    std::optional<int32_t> unknown;
    bool fuse_unknown = false;  // neighbours become one `unknown`
    // Of a rule that stands twice, the last counts (tokenizer.json) or the first (GGUF).
    bool last_rule_wins = true;
  };

  // kCorrupt if a rule names a token that the vocabulary lacks.
  static Result<Bpe> from_rules(const Vocabulary& vocabulary, const std::vector<Rule>& rules,
                                const Options& options);
  // As SentencePiece and llama.cpp do: any two symbols merge if their text is a token, the highest
  // score first. Characters that are still alone and no token then become their bytes' tokens.
  // Requires: scores.size() == vocabulary.size(), none NaN.
  static Result<Bpe> from_scores(const Vocabulary& vocabulary, const std::vector<double>& scores,
                                 const Options& options);

  // Working memory that outlives one call, to save allocations. Single-owner.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      int32_t id;
      uint32_t begin;  // in the word
      int32_t previous = -1;
      int32_t next = -1;
      Merge merge = {};  // with the next symbol
    };
    std::vector<Symbol> symbols;
    CandidateQueue queue;  // of rank << 32 | index of the left symbol
  };

  // Appends the ids of `word`. Requires: valid UTF-8 of less than 2 GiB.
  void encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const;

 private:
  Bpe(const Vocabulary& vocabulary, const Options& options, size_t pairs);

  int32_t character_id(std::string_view character) const;
  void split(std::string_view word, std::vector<Scratch::Symbol>* symbols) const;
  bool append_bytes(std::string_view character, uint32_t begin,
                    std::vector<Scratch::Symbol>* symbols) const;
  void merge_short(Scratch* scratch) const;
  void merge_long(Scratch* scratch) const;
  void emit(std::string_view word, const Scratch& scratch, std::vector<int32_t>* ids) const;

  const Vocabulary* vocabulary_;
  Options options_;
  bool bytes_last_ = false;  // bytes replace characters after the merges, not before
  PairTable merges_;
  std::vector<int32_t> low_characters_;                    // by code point below U+10000, or -1
  std::unordered_map<char32_t, int32_t> high_characters_;  // the others that are symbols
  std::array<int32_t, 256> byte_ids_;                      // or -1
};

}  // namespace skein::text
