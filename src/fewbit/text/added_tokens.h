// Tokens that are cut out of a text before anything else happens to it: "<|im_end|>", runs of
// spaces.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/text/byte_trie.h"
#include "fewbit/text/normalizer.h"
#include "fewbit/text/vocabulary.h"

namespace fewbit {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  // A control token: not matched in untrusted text, not shown to users.
  bool special = false;
  // Matched in the normalized text, otherwise in the text as it is.
  bool normalized = false;
  // Takes in the white space before it, after it.
  bool lstrip = false, rstrip = false;
  // Only where no word character stands before or after it.
  bool single_word = false;
};

// Matching is leftmost-longest. A match that begins inside white space that an earlier one took in
// is no match.
class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  bool empty() const { return trie_.empty(); }
  // Cuts `text`: on_text(range) for what lies between, never empty, and on_token(id), in order.
  // Special tokens count only if `parse_special`.
  void cut(std::string_view text, bool parse_special, const std::function<void(TextRange)>& on_text,
           const std::function<void(TokenId)>& on_token) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie trie_;
};

}  // namespace fewbit
