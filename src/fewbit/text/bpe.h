// Byte-pair encoding (Sennrich et al. 2016) of one piece of text.
//
// A piece starts as its characters or bytes; the adjacent pair with the lowest rank, leftmost
// first, becomes one symbol, until no pair of the table is left. O(n log n) in the piece's length.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "fewbit/text/piece_cache.h"
#include "fewbit/text/vocabulary.h"

namespace fewbit {

// (left, right) -> rank and id of the merged symbol.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank = UINT32_MAX;
    TokenId result = -1;
  };
  // Of two merges of one pair the last counts.
  void set(TokenId left, TokenId right, Merge merge);
  // rank UINT32_MAX: no such merge.
  Merge find(TokenId left, TokenId right) const;
  size_t size() const { return used_; }
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Slot& slot : slots_) {
      if (slot.merge.result >= 0) visit(slot.left, slot.right, slot.merge);
    }
  }

 private:
  struct Slot {
    TokenId left = -1, right = -1;
    Merge merge;
  };
  size_t slot_of(TokenId left, TokenId right) const;
  void grow();

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

struct BpeOptions {
  // Pieces are read as bytes, each of which is its symbol of unicode.h in the vocabulary. Otherwise
  // they are read as characters.
  bool bytes = false;
  // A character without a token becomes the tokens <0xNN> of its bytes, if all are there.
  bool byte_fallback = false;
  // What else it becomes; without one it is left out.
  std::optional<TokenId> unknown;
  // Adjacent unknown characters become one token.
  bool fuse_unknown = false;
  // A piece that is a token is that token, whatever the merges would give.
  bool ignore_merges = false;
};

class BpeModel {
 public:
  // `extra`: characters without a token of their own that merges start from; number i has the id
  // first_extra + i, above every token's, and is written as an unknown character where it is left
  // over.
  BpeModel(std::shared_ptr<const Vocabulary> vocabulary, MergeTable merges, BpeOptions options,
           Vocabulary extra = {}, TokenId first_extra = kMaxVocabulary);

  // Buffers and cache of one thread.
  struct Scratch {
    struct Symbol {
      TokenId id;
      int32_t previous, next;
    };
    struct Candidate {
      uint32_t rank;
      int32_t position;
      TokenId left, right, result;
    };
    PieceCache cache;
    std::vector<TokenId> ids;
    std::vector<MergeTable::Merge> pairs;
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };
  // Appends the ids of `piece`, valid UTF-8.
  void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

  const BpeOptions& options() const { return options_; }
  const MergeTable& merges() const { return merges_; }

 private:
  void encode_word(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;
  void compute_word(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;
  void start_symbols(std::string_view word, std::vector<TokenId>& ids) const;
  bool append_fallback_bytes(std::string_view character, std::vector<TokenId>& ids) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;
  void find_cuts();

  std::shared_ptr<const Vocabulary> vocabulary_;
  MergeTable merges_;
  BpeOptions options_;
  Vocabulary extra_;
  TokenId first_extra_;
  // Of each byte: its symbol's token, and the token <0xNN>; -1 if there is none.
  std::array<TokenId, 256> byte_ids_, fallback_ids_;
  // Of each ASCII character.
  std::array<TokenId, 128> ascii_ids_;
  // A text may be cut between a character and a following "▁" unless a merge joins the two.
  bool cuts_at_marks_ = false;
  std::vector<char32_t> joined_to_mark_;
};

}  // namespace fewbit
