// Training of byte-level BPE vocabularies (Sennrich et al. 2016, on bytes as Radford et al. 2019).
//
// Texts are cut by GPT-2's pattern into words; then, until the vocabulary is full, the pair of
// adjacent tokens that occurs most often in all words becomes a token (of equal pairs the one with
// the lower ids). The result depends on the words and their counts only, not on the order or the
// division of the texts.
//
//   BpeTrainer trainer({.vocabulary_size = 4096});
//   for_each_document("corpus.txt.zst", {}, [&](std::string&& text) { trainer.add(text); });
//   const std::string tokenizer_json = trainer.train();
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

struct BpeTrainerOptions {
  // All tokens: 256 bytes, merges and special tokens.
  size_t vocabulary_size = 4096;
  // The last ids. They are cut out of the texts before counting.
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  // Rarer pairs are not merged: the vocabulary of a small text may stay smaller than wished.
  uint64_t min_pair_count = 2;
  // Longer tokens are not made.
  size_t max_token_bytes = 64;
};

class BpeTrainer {
 public:
  // Errors: a vocabulary too small for the bytes and special tokens, or too large; special tokens
  // that are empty or equal.
  explicit BpeTrainer(BpeTrainerOptions options);
  ~BpeTrainer();
  BpeTrainer(BpeTrainer&&) noexcept;
  BpeTrainer& operator=(BpeTrainer&&) noexcept;

  // Counts the words of a text; invalid UTF-8 is read as Tokenizer::encode reads it. Words do not
  // reach from one text into the next.
  void add(std::string_view text);
  size_t distinct_words() const;
  // The tokenizer.json, by byte_level_tokenizer_json. May be called again after more texts.
  // Interrupted if the user stops it.
  std::string train() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options);

}  // namespace fewbit
