// Text of a generation while it grows: every piece is final and valid UTF-8.
//
// What later tokens could still change is held back (an incomplete character, a run of byte
// tokens), so that the pieces of push() and finish(), joined, are what decode() makes of all ids.
#pragma once

#include <string>
#include <vector>

#include "fewbit/text/tokenizer.h"

namespace fewbit {

class StreamDecoder {
 public:
  // `context`: ids that stand before the text and are not shown, such as a prompt; without any, the
  // text begins as decode() begins one.
  explicit StreamDecoder(Tokenizer tokenizer, std::span<const TokenId> context = {},
                         bool skip_special = true);

  // The text that has become certain by this token; often empty.
  std::string push(TokenId id);
  // What was held back.
  std::string finish();

 private:
  bool shows(TokenId id) const;
  void shorten();

  Tokenizer tokenizer_;
  bool skip_special_;
  // The last tokens that show; the first `shown_` bytes of their text have been handed out.
  std::vector<TokenId> ids_;
  size_t shown_ = 0;
};

}  // namespace fewbit
