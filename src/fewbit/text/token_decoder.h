// Decoders of tokenizer.json: from token strings back to text.
//
// Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace. Others (WordPiece,
// BPEDecoder, CTC) are refused by name.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/text/regex.h"

namespace fewbit {

class TokenDecoder {
 public:
  // Joins the tokens with spaces, as a tokenizer.json without a decoder does.
  TokenDecoder() = default;
  // A component, or null. Errors name the key.
  static TokenDecoder from_json(const Json& component);
  // The bytes of byte-level symbols.
  static TokenDecoder byte_level();
  // <0xNN> as bytes; `strip_space`: the text loses one space at the front.
  static TokenDecoder byte_fallback(bool strip_space);

  // Valid UTF-8: bytes that form none become U+FFFD.
  std::string decode(std::vector<std::string> tokens) const;
  // What one token adds to the middle of a text: perhaps a part of a character only.
  std::string token_bytes(std::string_view token) const;

 private:
  struct ByteLevel {};
  struct Replace {
    Regex pattern;
    std::string content;
  };
  struct ByteFallback {};
  struct Fuse {};
  struct Strip {
    std::string content;
    size_t start, stop;
  };
  struct Metaspace {
    std::string replacement;
    // The first token loses its marks.
    bool strip_first;
  };
  using Step = std::variant<ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace>;
  void append(const Json& component);

  std::vector<Step> steps_;
  bool join_with_spaces_ = true;
};

}  // namespace fewbit
