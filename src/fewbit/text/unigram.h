// The unigram language model (Kudo 2018): the segmentation of a piece with the highest sum of
// scores, by the Viterbi algorithm over its characters.
//
// A character that is no token costs (lowest score - 10); adjacent unknown ones become one unknown
// token, or the tokens <0xNN> of their bytes with byte_fallback. Of equal segmentations the one
// whose last token begins first is taken.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "fewbit/text/byte_trie.h"
#include "fewbit/text/piece_cache.h"
#include "fewbit/text/vocabulary.h"

namespace fewbit {

class UnigramModel {
 public:
  // One score for every id of the vocabulary, and whether text may become that token.
  UnigramModel(std::shared_ptr<const Vocabulary> vocabulary, std::vector<double> scores,
               const std::vector<bool>& plain, std::optional<TokenId> unknown, bool byte_fallback);

  struct Scratch {
    struct Node {
      double score;
      size_t begin;
      TokenId id;  // -1: not reached.
    };
    PieceCache cache;
    std::vector<Node> nodes;
    std::vector<size_t> path;
  };
  // Appends the ids of `piece`, valid UTF-8. Error: an unknown character and no unknown token.
  void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  void compute(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;
  void append_unknown(std::string_view text, std::vector<TokenId>& out) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<double> scores_;
  std::optional<TokenId> unknown_;
  double unknown_score_ = 0;
  bool byte_fallback_ = false;
  std::array<TokenId, 256> fallback_ids_;
  ByteTrie trie_;
};

}  // namespace fewbit
