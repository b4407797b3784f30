#include "coordinator/text/bpe.h"

#include <algorithm>

#include "coordinator/text/byte_symbols.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

namespace skein::text {
namespace {

constexpr int32_t kNone = -1;  // of ids: no token; of symbols: the end of the list
constexpr int32_t kGone = -2;  // the id of a symbol that was merged into its left neighbour
constexpr char32_t kLowCharacters = 0x10000;
constexpr size_t kShortWord = 32;  // symbols; up to here a scan beats a queue

}  // namespace

Bpe::Bpe(const Vocabulary& vocabulary, const Options& options, size_t pairs)
    : vocabulary_(&vocabulary),
      options_(options),
      merges_(pairs),
      low_characters_(kLowCharacters, kNone) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& token = vocabulary.token(id);
    if (token.empty() || character_length(token[0]) != token.size()) continue;
    size_t at = 0;
    const char32_t character = next_code_point(token, &at);
    if (character < kLowCharacters) {
      low_characters_[character] = id;
    } else {
      high_characters_.emplace(character, id);
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = vocabulary.find(fallback_token(static_cast<uint8_t>(byte))).value_or(kNone);
  }
}

Result<Bpe> Bpe::from_rules(const Vocabulary& vocabulary, const std::vector<Rule>& rules,
                            const Options& options) {
  if (rules.size() > kMergesMax) {
    return corrupt("there are " + std::to_string(rules.size()) + " merges, over the limit of " +
                   std::to_string(kMergesMax));
  }
  Bpe bpe(vocabulary, options, rules.size());
  std::string joined;
  for (size_t rank = 0; rank < rules.size(); ++rank) {
    const auto& [left, right] = rules[rank];
    joined.assign(left).append(right);
    const auto left_id = vocabulary.find(left);
    const auto right_id = vocabulary.find(right);
    const auto result = vocabulary.find(joined);
    if (!left_id || !right_id || !result) {
      const std::string_view missing = !left_id ? left : !right_id ? right : joined;
      return corrupt("merge " + std::to_string(rank) + " needs the token " + quoted(missing) +
                     ", which the vocabulary lacks");
    }
    bpe.merges_.insert(*left_id, *right_id, {static_cast<uint32_t>(rank), *result},
                       options.last_rule_wins);
  }
  return bpe;
}

Result<Bpe> Bpe::from_scores(const Vocabulary& vocabulary, const std::vector<double>& scores,
                             const Options& options) {
  CHECK_EQ(scores.size(), static_cast<size_t>(vocabulary.size()));
  // Equal scores have equal ranks: then the leftmost pair is first.
  std::vector<double> order(scores);
  std::ranges::sort(order, std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());

  size_t pairs = 0;
  for (int32_t id = 0; id < vocabulary.size(); ++id) pairs += vocabulary.token(id).size();
  if (pairs > 16 * kMergesMax) return corrupt("the tokens are too long for merging by score");
  struct Pair {
    int32_t left, right;
    Merge merge;
  };
  std::vector<Pair> found;
  int32_t next_symbol = vocabulary.size();
  std::unordered_map<char32_t, int32_t> extra;  // characters that are only parts of tokens
  const auto symbol = [&](std::string_view text) {
    if (const auto id = vocabulary.find(text)) return *id;
    if (character_length(text[0]) != text.size()) return kNone;
    size_t at = 0;
    const auto [place, added] = extra.emplace(next_code_point(text, &at), next_symbol);
    if (added) ++next_symbol;
    return place->second;
  };
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view token = vocabulary.token(id);
    const auto rank = std::ranges::lower_bound(order, scores[id], std::greater<>()) - order.begin();
    for (size_t at = token.empty() ? 0 : character_length(token[0]); at < token.size();
         at += character_length(token[at])) {
      const int32_t left = symbol(token.substr(0, at));
      const int32_t right = left == kNone ? kNone : symbol(token.substr(at));
      if (right == kNone) continue;
      found.push_back({left, right, {static_cast<uint32_t>(rank), id}});
    }
  }
  Bpe bpe(vocabulary, options, found.size());
  bpe.bytes_last_ = true;
  for (const auto& [left, right, merge] : found) bpe.merges_.insert(left, right, merge, true);
  for (const auto& [character, id] : extra) {
    if (character < kLowCharacters) {
      bpe.low_characters_[character] = id;
    } else {
      bpe.high_characters_.emplace(character, id);
    }
  }
  return bpe;
}

int32_t Bpe::character_id(std::string_view character) const {
  size_t at = 0;
  const char32_t c = next_code_point(character, &at);
  if (c < kLowCharacters) return low_characters_[c];
  const auto found = high_characters_.find(c);
  return found == high_characters_.end() ? kNone : found->second;
}

bool Bpe::append_bytes(std::string_view character, uint32_t begin,
                       std::vector<Scratch::Symbol>* symbols) const {
  for (const char c : character) {
    if (byte_ids_[static_cast<uint8_t>(c)] == kNone) return false;
  }
  for (const char c : character) {
    symbols->push_back({byte_ids_[static_cast<uint8_t>(c)], begin++});
  }
  return true;
}

// An unknown character waits until a known one or the end follows, as in Hugging Face tokenizers:
// bytes that come meanwhile go before it.
void Bpe::split(std::string_view word, std::vector<Scratch::Symbol>* symbols) const {
  std::optional<Scratch::Symbol> unknown;
  const auto flush = [&] {
    if (unknown) symbols->push_back(*unknown);
    unknown.reset();
  };
  for (size_t at = 0; at < word.size();) {
    const auto begin = static_cast<uint32_t>(at);
    const std::string_view character = word.substr(at, character_length(word[at]));
    at += character.size();
    const int32_t id = character_id(character);
    if (id != kNone || bytes_last_) {
      flush();
      symbols->push_back({id, begin});
    } else if (options_.byte_fallback && append_bytes(character, begin, symbols)) {
      continue;
    } else if (options_.unknown) {
      if (!options_.fuse_unknown) flush();
      if (!unknown) unknown = Scratch::Symbol{*options_.unknown, begin};
    }
  }
  flush();
}

// Repeats: find the pair of lowest rank, the leftmost of equals; join it.
void Bpe::merge_short(Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  const auto look_up = [&](size_t left) {
    if (left + 1 < symbols.size()) {
      symbols[left].merge = merges_.find(symbols[left].id, symbols[left + 1].id);
    } else {
      symbols[left].merge = {};
    }
  };
  for (size_t i = 0; i < symbols.size(); ++i) look_up(i);
  const auto rank = [](const Scratch::Symbol& symbol) { return symbol.merge.rank; };
  while (!symbols.empty()) {
    const auto best = std::ranges::min_element(symbols, {}, rank);
    if (rank(*best) == Merge::kNone) return;
    const size_t at = best - symbols.begin();
    best->id = best->merge.result;
    symbols.erase(best + 1);
    look_up(at);
    if (at > 0) look_up(at - 1);
  }
}

// The same with a list of symbols and a queue of pairs, in which outdated pairs are skipped.
void Bpe::merge_long(Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& queue = scratch->queue;
  const auto key = [&](int32_t left) {
    return uint64_t{symbols[left].merge.rank} << 32 | static_cast<uint32_t>(left);
  };
  const auto look_up = [&](int32_t left) {
    const int32_t right = symbols[left].next;
    symbols[left].merge =
        right == kNone ? Merge{} : merges_.find(symbols[left].id, symbols[right].id);
    return symbols[left].merge.rank != Merge::kNone;
  };
  const auto count = static_cast<int32_t>(symbols.size());
  queue.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : kNone;
    if (look_up(i)) queue.append(key(i));
  }
  queue.restore();
  while (!queue.empty()) {
    const uint64_t best = queue.pop();
    const auto at = static_cast<int32_t>(best & UINT32_MAX);
    Scratch::Symbol& left = symbols[at];
    if (key(at) != best) continue;  // what stands here now has a key of its own
    Scratch::Symbol& right = symbols[left.next];
    left.id = left.merge.result;
    left.next = right.next;
    right.id = kGone;
    right.merge = {};
    if (left.next != kNone) symbols[left.next].previous = at;
    if (look_up(at)) queue.push(key(at));
    if (left.previous != kNone && look_up(left.previous)) queue.push(key(left.previous));
  }
  std::erase_if(symbols, [](const Scratch::Symbol& symbol) { return symbol.id == kGone; });
}

void Bpe::emit(std::string_view word, const Scratch& scratch, std::vector<int32_t>* ids) const {
  for (const Scratch::Symbol& symbol : scratch.symbols) {
    if (symbol.id != kNone && symbol.id < vocabulary_->size()) {
      ids->push_back(symbol.id);
      continue;
    }
    const size_t length = character_length(word[symbol.begin]);
    std::vector<Scratch::Symbol> bytes;
    if (options_.byte_fallback &&
        append_bytes(word.substr(symbol.begin, length), symbol.begin, &bytes)) {
      for (const Scratch::Symbol& byte : bytes) ids->push_back(byte.id);
    } else if (options_.unknown) {
      ids->push_back(*options_.unknown);
    }
  }
}

void Bpe::encode(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (options_.ignore_merges) {
    if (const auto id = vocabulary_->find(word)) {
      ids->push_back(*id);
      return;
    }
  }
  scratch->symbols.clear();
  split(word, &scratch->symbols);
  if (scratch->symbols.size() <= kShortWord) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  emit(word, *scratch, ids);
}

}  // namespace skein::text
