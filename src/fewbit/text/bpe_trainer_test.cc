#include "fewbit/text/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "fewbit/base/error.h"
#include "fewbit/base/json.h"
#include "fewbit/base/random.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::vector<std::string> made_up_words(size_t count, uint64_t seed) {
  RandomStream random(seed, "words");
  std::vector<std::string> words;
  for (size_t i = 0; i < count; ++i) {
    std::string word;
    for (uint64_t n = 1 + random.below(7); n > 0; --n) {
      word += "abcde"[random.below(1 + random.below(5))];
    }
    words.push_back(word);
  }
  return words;
}

std::string made_up_text(size_t words, uint64_t seed) {
  std::string text;
  for (const std::string& word : made_up_words(words, seed)) text += word + " ";
  return text;
}

std::vector<std::string> merges_of(const std::string& tokenizer_json) {
  return parse_json(tokenizer_json, "test")["model"]["merges"].get<std::vector<std::string>>();
}

TEST(BpeTrainerTest, MergesTheMostFrequentPairFirst) {
  const std::vector<std::string_view> texts = {
      "low low low lower lower newest newest newest newest"};
  const auto merges = merges_of(train_bpe(texts, {.vocabulary_size = 262, .special_tokens = {}}));
  // w+e 6, l+o 5, o+w 5, e+s 4 ...; of equal counts the pair with the lower first byte.
  ASSERT_GE(merges.size(), 2u);
  EXPECT_EQ(merges[0], "w e");
  EXPECT_EQ(merges[1], "l o");
}

// Counts every pair of every word anew for each merge.
std::vector<std::string> slow_merges(const std::vector<std::string>& words, size_t count) {
  std::vector<std::vector<std::string>> split;
  for (const std::string& word : words) {
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    split.push_back(symbols);
  }
  // Ids in the order of creation decide between equal counts.
  std::map<std::string, int> ids;
  for (int byte = 0; byte < 256; ++byte) ids[std::string(1, static_cast<char>(byte))] = byte;
  std::vector<std::string> merges;
  while (merges.size() < count) {
    std::map<std::pair<int, int>, std::pair<int, std::pair<std::string, std::string>>> counts;
    for (const auto& word : split) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        auto& entry = counts[{ids[word[i]], ids[word[i + 1]]}];
        ++entry.first;
        entry.second = {word[i], word[i + 1]};
      }
    }
    const auto best = std::max_element(counts.begin(), counts.end(), [](auto& a, auto& b) {
      return a.second.first < b.second.first;
    });
    const auto [left, right] = best->second.second;
    merges.push_back(left + " " + right);
    ids.emplace(left + right, static_cast<int>(ids.size()));
    for (auto& word : split) {
      std::vector<std::string> merged;
      for (size_t i = 0; i < word.size(); ++i) {
        if (i + 1 < word.size() && word[i] == left && word[i + 1] == right) {
          merged.push_back(left + right);
          ++i;
        } else {
          merged.push_back(word[i]);
        }
      }
      word = merged;
    }
  }
  return merges;
}

TEST(BpeTrainerTest, EqualsCountingAnewForEveryMerge) {
  // One word a text, so that none begins with a space.
  for (const uint64_t seed : {1, 2, 3}) {
    const std::vector<std::string> words = made_up_words(1500, seed);
    const std::vector<std::string_view> texts(words.begin(), words.end());
    const std::vector<std::string> expected = slow_merges(words, 60);
    std::vector<std::string> merges =
        merges_of(train_bpe(texts, {.vocabulary_size = 256 + 60, .special_tokens = {}}));
    ASSERT_GE(merges.size(), expected.size());
    merges.resize(expected.size());
    EXPECT_EQ(merges, expected);
  }
}

TEST(BpeTrainerTest, DoesNotDependOnTheOrderOfTexts) {
  const std::string a = made_up_text(3000, 1), b = made_up_text(3000, 2);
  const BpeTrainerOptions options{.vocabulary_size = 400};
  const std::string first = train_bpe(std::vector<std::string_view>{a, b}, options);
  EXPECT_EQ(first, train_bpe(std::vector<std::string_view>{b, a}, options));
  BpeTrainer trainer(options);
  trainer.add(a);
  trainer.add(b);
  EXPECT_EQ(trainer.train(), first);
  EXPECT_EQ(trainer.train(), first);
}

TEST(BpeTrainerTest, ItsTokenizerHasTheVocabularyAskedForAndReadsAnyText) {
  const std::string text = made_up_text(5000, 3);
  const std::vector<std::string_view> texts = {text};
  const Tokenizer tokenizer = Tokenizer::from_json(
      train_bpe(texts, {.vocabulary_size = 350, .special_tokens = {"<a>", "<b>"}}));
  EXPECT_EQ(tokenizer.vocabulary_size(), 350u);
  EXPECT_EQ(tokenizer.find("<a>"), 348);
  EXPECT_EQ(tokenizer.find("<b>"), 349);
  EXPECT_LT(tokenizer.encode(text).size(), text.size() / 2);
  for (const std::string& any : {text, std::string("\0\x01\n\r \xc3\xa9\xe6\xbc\xa2", 10)}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(any)), any);
  }
}

TEST(BpeTrainerTest, SpecialTokensInTheTextsAreNotCounted) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "x<|endoftext|>";
  const std::vector<std::string_view> texts = {text};
  EXPECT_TRUE(merges_of(train_bpe(texts, {})).empty());
}

TEST(BpeTrainerTest, ASmallTextGivesASmallerVocabulary) {
  const std::vector<std::string_view> texts = {"ab ab"};
  const Tokenizer tokenizer = Tokenizer::from_json(train_bpe(texts, {.vocabulary_size = 1000}));
  // "a b" only: " ab" occurs once.
  EXPECT_EQ(tokenizer.vocabulary_size(), 256u + 1 + 1);
}

TEST(BpeTrainerTest, RefusesImpossibleOptions) {
  EXPECT_THAT([] { BpeTrainer({.vocabulary_size = 256}); },
              ThrowsMessage<Error>(HasSubstr("allowed: 257 to")));
  EXPECT_THROW(BpeTrainer({.special_tokens = {"a", "a"}}), Error);
  EXPECT_THROW(BpeTrainer({.special_tokens = {""}}), Error);
}

}  // namespace
}  // namespace fewbit
