// Regular expressions over valid UTF-8, by PCRE2 with Unicode properties and its JIT compiler.
//
// The dialect is that of tokenizer.json files (Oniguruma's): \s is the property White_Space, \w
// holds the marks, ^ and $ match at lines. What the two engines read differently otherwise is
// refused: an interval followed by + ("{1,3}+"), sets within a class ("[a-z&&[^b]]").
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace fewbit {

struct TextRange {
  size_t begin = 0, end = 0;
};

class Regex {
 public:
  // Error: a pattern that does not compile, with the offset.
  static Regex compile(std::string_view pattern);
  // Matches `text` as it is, character for character.
  static Regex literal(std::string_view text);

  // What a search writes to; one per thread that searches at a time.
  class Scratch {
   public:
    explicit Scratch(const Regex& regex);

   private:
    friend class Regex;
    std::shared_ptr<void> match_data_, context_;
  };

  // The first non-empty match at or after byte `from` of valid UTF-8. Error: the search needs more
  // steps or memory than any tokenizer's pattern does.
  std::optional<TextRange> find(std::string_view text, size_t from, Scratch& scratch) const;

 private:
  Regex() = default;
  std::string pattern_;
  bool literal_ = false;
  std::shared_ptr<void> code_;
};

}  // namespace fewbit
