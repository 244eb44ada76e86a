// What a Tokenizer is made of, and what one thread needs to run it. For the factories only.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "fewbit/text/added_tokens.h"
#include "fewbit/text/bpe.h"
#include "fewbit/text/normalizer.h"
#include "fewbit/text/pre_tokenizer.h"
#include "fewbit/text/token_decoder.h"
#include "fewbit/text/tokenizer.h"
#include "fewbit/text/unigram.h"

namespace fewbit {

struct TokenizerParts {
  explicit TokenizerParts(std::variant<BpeModel, UnigramModel> m) : model(std::move(m)) {}

  // All tokens. The model may know fewer: only those that text can become.
  std::shared_ptr<const Vocabulary> vocabulary;
  // Of ids that are not normal; vocabulary->size() entries.
  std::vector<TokenType> types;
  // Cut out of the text as it is, and out of the normalized text.
  AddedTokens raw_added, normalized_added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::variant<BpeModel, UnigramModel> model;
  TokenDecoder decoder;
  // Added tokens that decoding shows as the normalizer writes them.
  std::map<TokenId, std::string> normalized_text;
  // SentencePiece vocabularies of GGUF: "▁" is a space in normal tokens, and only there.
  bool marks_in_normal_tokens = false;
  // Byte-level vocabularies of GGUF: tokens that are not normal are plain text.
  bool literal_added_tokens = false;
  SpecialTokens special;
  std::vector<TokenId> prefix, suffix;
  std::string source_hash;

  // A token as the decoder takes it.
  std::string decoder_token(TokenId id) const;
  void encode(std::string_view text, bool parse_special, std::vector<TokenId>& out) const;

  struct Scratch {
    Normalizer::Scratch normalizer;
    PreTokenizer::Scratch pre_tokenizer;
    std::variant<BpeModel::Scratch, UnigramModel::Scratch> model;
  };

 private:
  std::unique_ptr<Scratch> take_scratch() const;
  void give_back(std::unique_ptr<Scratch> scratch) const;

  // Caches live on between calls: one for each thread that ever encoded at the same time.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace fewbit
