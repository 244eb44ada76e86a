// Pre-tokenizers of tokenizer.json: where a text is cut into the pieces that the model sees.
//
// Sequence, ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation. Others
// (BertPreTokenizer, UnicodeScripts, ...) are refused by name.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/text/regex.h"

namespace fewbit {

// What becomes of the matches of a Split.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
// Where Metaspace puts its mark in front: of every piece, of the text's first piece, nowhere.
enum class PrependScheme { always, first, never };

PrependScheme read_prepend_scheme(const Json& component);

struct Piece {
  std::string_view text;
  // It begins where the original text begins.
  bool starts_text = false;
};

class PreTokenizer {
 public:
  // Cuts nothing.
  PreTokenizer() = default;
  // A component, or null. Errors name the key.
  static PreTokenizer from_json(const Json& component);
  // The chain ends with ByteLevel's alphabet: the pieces that come out are still plain UTF-8, and
  // whoever takes them reads each byte as its symbol of unicode.h.
  bool byte_level() const { return byte_level_; }
  class Scratch;
  Scratch make_scratch() const;

  using Sink = std::function<void(Piece)>;
  // Hands out the pieces of `piece` (valid UTF-8) in order; empty ones are left out. A piece's text
  // lives only during the call.
  void split(Piece piece, Scratch& scratch, const Sink& sink) const;

 private:
  // The four steps that everything is made of.
  struct PrefixSpace {};
  struct Bytes {};
  struct Metaspace {
    std::string replacement;
    PrependScheme scheme;
  };
  struct Split {
    Regex pattern;
    SplitBehavior behavior;
    bool invert;
  };
  using Step = std::variant<PrefixSpace, Bytes, Metaspace, Split>;
  void append(const Json& component);
  void run(size_t step, Piece piece, Scratch& scratch, const Sink& sink) const;

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// Buffers and search state of one thread.
class PreTokenizer::Scratch {
  friend class PreTokenizer;
  // One per step; a Split has a search state, the others write the changed piece.
  std::vector<std::variant<std::string, Regex::Scratch>> steps_;
};

}  // namespace fewbit
