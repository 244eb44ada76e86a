// Tokenizer: text to token ids and back, for every vocabulary that fewbit reads.
//
//   const Tokenizer tokenizer = Tokenizer::from_json(read_text_file("tokenizer.json"));
//   std::vector<TokenId> ids = tokenizer.encode("Hello");
//   std::string text = tokenizer.decode(ids);
//
// A value: copies share the vocabulary. All const functions may be called from several threads at a
// time, and give the same ids whatever was encoded before. What each file may hold, and what is
// refused, is in docs/formats/tokenizer.md; the pipeline is
//   text -> cut at added tokens -> normalizer -> pre-tokenizer -> BPE or unigram -> BOS and EOS.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/text/vocabulary.h"

namespace fewbit {

struct TokenizerParts;

// unknown and control tokens are special: written in a text of strangers they are plain text, and
// text for users leaves them out.
enum class TokenType { normal, unknown, control, user_defined, unused, byte };

// Tokens with a meaning; absent where the files do not say.
struct SpecialTokens {
  std::optional<TokenId> bos, eos, pad, unknown;
  // Any of these ends a generated text: eos and, by their names, the ends of turns. Sorted.
  std::vector<TokenId> end_of_generation;
};

struct EncodeOptions {
  // BOS and EOS as the tokenizer has them.
  bool add_special = true;
  // Control tokens written in the text ("<|im_end|>") become those tokens. False for text of
  // strangers.
  bool parse_special = true;
};

class Tokenizer {
 public:
  // A tokenizer.json. `what` names the text in errors, which name the key as well.
  static Tokenizer from_json(std::string_view text, std::string_view what = "tokenizer.json");
  // For the factories (gguf_vocabulary.h).
  explicit Tokenizer(std::shared_ptr<const TokenizerParts> parts);

  // The tokenizer with what tokenizer_config.json says: bos_token, eos_token, pad_token, unk_token,
  // add_bos_token, add_eos_token. Error: a token that the vocabulary lacks.
  Tokenizer with_config(const Json& tokenizer_config) const;

  // Parts of `text` that are not UTF-8 are read as U+FFFD, one for each maximal invalid part.
  std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const;
  // The same, appended to `out`.
  void encode(std::string_view text, EncodeOptions options, std::vector<TokenId>& out) const;

  // Valid UTF-8; bytes that form no character become U+FFFD. `skip_special`: without control
  // tokens. Ids without a token (the padding of a model's vocabulary) stand for nothing.
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;
  // What a token adds to the middle of a text, control tokens too: perhaps a part of a character.
  std::string token_bytes(TokenId id) const;
  // The token as its file writes it ("Ġthe", "▁the", "<0x0A>"); empty for an id without a token.
  std::string token_text(TokenId id) const;
  std::optional<TokenId> find(std::string_view token_text) const;
  // An id without a token is unused.
  TokenType type(TokenId id) const;

  // Highest id + 1. A model's embedding may have more rows.
  size_t vocabulary_size() const;
  const SpecialTokens& special() const { return special_; }
  // What add_special puts before and after a text.
  std::span<const TokenId> prefix() const { return prefix_; }
  std::span<const TokenId> suffix() const { return suffix_; }
  // Tokenizers of equal fingerprint give equal ids: SHA-256 in hexadecimal.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  void settle();

  std::shared_ptr<const TokenizerParts> parts_;
  SpecialTokens special_;
  std::vector<TokenId> prefix_, suffix_;
  std::string fingerprint_;
};

}  // namespace fewbit
