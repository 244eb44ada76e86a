// The token strings of a tokenizer and their ids.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

using TokenId = int32_t;

// More than any tokenizer has; bounds what a file can make us allocate.
inline constexpr size_t kMaxVocabulary = size_t{1} << 22;

// Token text by id and id by token text. Ids may have holes. Tokens of one text: the one set first
// is found.
class Vocabulary {
 public:
  // Highest id + 1.
  size_t size() const { return spans_.size(); }
  // Ids that have a token.
  size_t count() const { return count_; }
  // Error: an id outside [0, kMaxVocabulary), or one that already has another text.
  void set(TokenId id, std::string_view text);
  bool contains(TokenId id) const {
    return id >= 0 && static_cast<size_t>(id) < spans_.size() &&
           spans_[static_cast<size_t>(id)].begin != kHole;
  }
  // Empty for an id without a token.
  std::string_view text(TokenId id) const;
  std::optional<TokenId> find(std::string_view text) const;

 private:
  static constexpr uint64_t kHole = UINT64_MAX;
  struct Span {
    uint64_t begin = kHole;
    uint32_t length = 0;
  };
  // The hash is kept so that most comparisons need not look at the text.
  struct Slot {
    uint32_t hash = 0;
    TokenId id = -1;  // Free.
  };
  void grow();
  size_t slot_of(std::string_view text, uint32_t hash) const;

  std::string characters_;
  std::vector<Span> spans_;
  // Open addressing, at most half full.
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

}  // namespace fewbit
