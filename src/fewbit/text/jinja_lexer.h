// Cuts a template into text, tags and the tokens inside tags.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fewbit::jinja {

struct Token {
  enum class Kind {
    text,       // Template text between tags.
    open_tag,   // {%
    close_tag,  // %}
    open_output,
    close_output,
    name,
    string,    // Its content.
    integer,   // Its digits.
    real,      // Its digits.
    operation  // Punctuation.
  };
  Kind kind = Kind::text;
  std::string text;
  size_t line = 1;

  bool is(Kind wanted, std::string_view content) const { return kind == wanted && text == content; }
};

// Applies white-space control, trim_blocks and lstrip_blocks; drops comments and one newline at the
// end of the source. Errors name the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace fewbit::jinja
