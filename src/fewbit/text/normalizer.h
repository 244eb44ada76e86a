// Normalizers of tokenizer.json: what happens to a text before it is cut.
//
// Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace. Others
// (Precompiled, BertNormalizer, Nmt, ...) are refused by name.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/text/regex.h"
#include "fewbit/text/unicode.h"

namespace fewbit {

class Normalizer {
 public:
  // Leaves every text as it is.
  Normalizer() = default;
  // A component, or null. Errors name the key.
  static Normalizer from_json(const Json& component);

  bool empty() const { return steps_.empty(); }
  // Search state of the Replace steps; one per thread.
  using Scratch = std::vector<Regex::Scratch>;
  Scratch make_scratch() const;

  struct Result {
    std::string text;
    // Something was cut off at the front.
    bool front_removed = false;
  };
  // `text`: valid UTF-8. Error: the result is out of proportion to the text.
  Result apply(std::string_view text, Scratch& scratch) const;

 private:
  struct Lowercase {};
  struct StripAccents {};
  struct Strip {
    bool left, right;
  };
  struct Prepend {
    std::string text;
  };
  struct Replace {
    Regex pattern;
    std::string content;
  };
  using Step = std::variant<NormalForm, Lowercase, StripAccents, Strip, Prepend, Replace>;
  void append(const Json& component);

  std::vector<Step> steps_;
};

// Every match of `pattern` replaced by `content`; at most `max_bytes` may come out.
std::string replace_matches(std::string_view text, const Regex& pattern, Regex::Scratch& scratch,
                            std::string_view content, size_t max_bytes);

// No normalizer or decoder of a real tokenizer lets a text grow beyond this.
size_t max_expanded_bytes(size_t bytes);

}  // namespace fewbit
