#include "coordinator/text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>

#include "coordinator/text/byte_symbols.h"
#include "coordinator/text/utf8.h"

namespace skein::text {
namespace {

using Ids = std::vector<int32_t>;

Vocabulary vocabulary_of(const std::vector<std::string>& tokens) {
  std::vector<Vocabulary::Entry> entries;
  for (const std::string& token : tokens)
    entries.push_back({token, static_cast<int64_t>(entries.size())});
  auto vocabulary = Vocabulary::build(entries);
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status().message();
  return std::move(vocabulary).value();
}

Ids encode(const Bpe& bpe, std::string_view word) {
  Bpe::Scratch scratch;
  Ids ids;
  bpe.encode(word, &scratch, &ids);
  return ids;
}

// A vocabulary over a, b, c whose merges were drawn at random, and its encoder.
struct RandomBpe {
  explicit RandomBpe(uint32_t seed) {
    std::mt19937 random(seed);
    tokens = {"a", "b", "c"};
    while (tokens.size() < 60) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      if (left.size() + right.size() > 12 || std::ranges::count(tokens, left + right) > 0) continue;
      rules.emplace_back(left, right);
      tokens.push_back(left + right);
    }
    std::ranges::shuffle(rules, random);
    vocabulary = std::make_unique<Vocabulary>(vocabulary_of(tokens));
    std::vector<Bpe::Rule> views;
    for (const auto& [left, right] : rules) views.push_back({left, right});
    bpe = std::make_unique<Bpe>(std::move(Bpe::from_rules(*vocabulary, views, {})).value());
  }

  // By the definition: join the leftmost pair of the earliest rule until none applies.
  Ids by_definition(const std::string& word) const {
    std::vector<std::string> parts;
    for (const char c : word) parts.push_back(std::string(1, c));
    while (true) {
      size_t best_rank = rules.size();
      size_t best = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto rule = std::ranges::find(rules, std::pair(parts[i], parts[i + 1]));
        const size_t rank = rule - rules.begin();
        if (rank < best_rank) {
          best_rank = rank;
          best = i;
        }
      }
      if (best_rank == rules.size()) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + best + 1);
    }
    Ids ids;
    for (const std::string& part : parts) ids.push_back(*vocabulary->find(part));
    return ids;
  }

  std::vector<std::string> tokens;
  std::vector<std::pair<std::string, std::string>> rules;
  std::unique_ptr<Vocabulary> vocabulary;
  std::unique_ptr<Bpe> bpe;
};

TEST(Bpe, MergesByTheDefinitionInShortAndLongWords) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const RandomBpe random_bpe(seed);
    std::mt19937 random(seed + 100);
    for (const size_t length : {1, 2, 5, 31, 32, 33, 34, 100, 400}) {
      std::string word;
      for (size_t i = 0; i < length; ++i) word.push_back("abc"[random() % 3]);
      ASSERT_EQ(encode(*random_bpe.bpe, word), random_bpe.by_definition(word))
          << seed << " " << word;
    }
    const std::string same(200, 'a');
    ASSERT_EQ(encode(*random_bpe.bpe, same), random_bpe.by_definition(same)) << seed;
  }
}

TEST(Bpe, EncodesAWordOfAMillionCharacters) {
  const Vocabulary vocabulary = vocabulary_of({"a", "aa", "aaaa", "aaaaaaaa"});
  const auto bpe = Bpe::from_rules(vocabulary, {{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}}, {});
  ASSERT_TRUE(bpe.ok());
  EXPECT_EQ(encode(*bpe, std::string(1 << 20, 'a')), Ids(1 << 17, 3));
}

TEST(Bpe, NamesTheTokenThatAMergeLacks) {
  const Vocabulary vocabulary = vocabulary_of({"a", "b", "ab"});
  const auto bpe = Bpe::from_rules(vocabulary, {{"a", "b"}, {"ab", "c"}}, {});
  ASSERT_FALSE(bpe.ok());
  EXPECT_EQ(bpe.status().code(), Code::kCorrupt);
  EXPECT_NE(bpe.status().message().find("merge 1 needs the token \"c\""), std::string::npos);
  EXPECT_FALSE(Bpe::from_rules(vocabulary, {{"ab", "a"}}, {}).ok());
}

TEST(Bpe, KeepsTheRuleThatCounts) {
  const Vocabulary vocabulary = vocabulary_of({"a", "b", "c", "ab", "bc"});
  const std::vector<Bpe::Rule> rules = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  EXPECT_EQ(
      encode(*Bpe::from_rules(vocabulary, rules, {.unknown = {}, .last_rule_wins = true}), "abc"),
      (Ids{0, 4}));
  EXPECT_EQ(
      encode(*Bpe::from_rules(vocabulary, rules, {.unknown = {}, .last_rule_wins = false}), "abc"),
      (Ids{3, 2}));
}

TEST(Bpe, TakesAWholeWordWhereMergesAreIgnored) {
  const Vocabulary vocabulary = vocabulary_of({"a", "b", "aba"});
  EXPECT_EQ(encode(*Bpe::from_rules(vocabulary, {}, {}), "aba"), (Ids{0, 1, 0}));
  EXPECT_EQ(encode(*Bpe::from_rules(vocabulary, {}, {.ignore_merges = true, .unknown = {}}), "aba"),
            (Ids{2}));
}

TEST(Bpe, ReplacesUnknownCharacters) {
  const Vocabulary vocabulary = vocabulary_of({"<unk>", "a", "<0xC3>", "<0xA9>"});
  const auto with = [&](const Bpe::Options& options, std::string_view word) {
    return encode(*Bpe::from_rules(vocabulary, {}, options), word);
  };
  EXPECT_EQ(with({}, "axa"), (Ids{1, 1}));
  EXPECT_EQ(with({.unknown = 0}, "axya"), (Ids{1, 0, 0, 1}));
  EXPECT_EQ(with({.unknown = 0, .fuse_unknown = true}, "axyaz"), (Ids{1, 0, 1, 0}));
  EXPECT_EQ(with({.byte_fallback = true, .unknown = 0}, "aé"), (Ids{1, 2, 3}));
  EXPECT_EQ(with({.byte_fallback = true, .unknown = 0}, "aü"), (Ids{1, 0}));  // <0xBC> is missing
  EXPECT_EQ(with({.byte_fallback = true, .unknown = 0}, "xé"),
            (Ids{2, 3, 0}));  // as Hugging Face has it
}

TEST(Bpe, KnowsCharactersBeyondTheBasicPlane) {
  const Vocabulary vocabulary = vocabulary_of({"😀", "a", "😀a"});
  EXPECT_EQ(encode(*Bpe::from_rules(vocabulary, {{"😀", "a"}}, {}), "a😀a😀"), (Ids{1, 2, 0}));
}

TEST(BpeByScore, JoinsWhatHasTheHighestScoreThenTheLeftmost) {
  const Vocabulary vocabulary = vocabulary_of({"a", "b", "c", "ab", "bc", "abc"});
  const auto with = [&](std::vector<double> scores, std::string_view word) {
    return encode(*Bpe::from_scores(vocabulary, scores, {}), word);
  };
  EXPECT_EQ(with({0, 0, 0, -1, -2, -9}, "abc"), (Ids{5}));
  EXPECT_EQ(with({0, 0, 0, -2, -1, -9}, "abbc"), (Ids{3, 4}));
  EXPECT_EQ(with({0, 0, 0, -1, -1, -9}, "abcbc"), (Ids{5, 4}));
}

TEST(BpeByScore, MergesACharacterThatIsOnlyPartOfTokens) {
  const Vocabulary vocabulary = vocabulary_of({"a", "aé", "<0xC3>", "<0xA9>", "<unk>", "😀a"});
  const auto bpe = Bpe::from_scores(vocabulary, std::vector<double>(6, -1),
                                    {.byte_fallback = true, .unknown = 4});
  ASSERT_TRUE(bpe.ok());
  EXPECT_EQ(encode(*bpe, "aéé😀aü"), (Ids{1, 2, 3, 5, 4}));
}

TEST(Vocabulary, RefusesContradictions) {
  const auto refused = [](std::vector<Vocabulary::Entry> entries, std::string_view why) {
    const auto vocabulary = Vocabulary::build(entries);
    ASSERT_FALSE(vocabulary.ok()) << why;
    EXPECT_EQ(vocabulary.status().code(), Code::kCorrupt);
    EXPECT_NE(vocabulary.status().message().find(why), std::string::npos)
        << vocabulary.status().message();
  };
  refused({{"a", -1}}, "outside");
  refused({{"a", int64_t{1} << 40}}, "outside");
  refused({{"a", 0}, {"b", 0}}, "same id");
  refused({{"a", 0}, {"a", 1}}, "two ids");
  refused({{"a", 0}, {"b", 900'000}}, "only 2 tokens");
  refused({{"", 0}}, "empty");
  refused({{"\xFF", 0}}, "UTF-8");
  const std::string long_token(100'000, 'a');
  refused({{long_token, 0}}, "over the limit");
}

}  // namespace
}  // namespace skein::text
