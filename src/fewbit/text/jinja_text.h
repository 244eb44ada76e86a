// Python's string functions, as templates use them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit::jinja {

// Without the characters of `set` at its ends; no set: white space.
std::string stripped(std::string_view text, std::optional<std::string_view> set, bool left,
                     bool right);
std::string uppercase(std::string_view text);
// The first letter in upper, the rest in lower case; of the text, or of every word.
std::string capitalized(std::string_view text);
std::string titled(std::string_view text);
// `limit` < 0: all occurrences. `check_size` is told how long the result becomes.
std::string replaced(std::string_view text, std::string_view from, std::string_view to, long limit,
                     const std::function<void(size_t)>& check_size);
// At a separator, or at runs of white space; at most `limit` cuts if that is not negative.
std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               long limit);
std::string indented_lines(std::string_view text, std::string_view space, bool first, bool blank,
                           const std::function<void(size_t)>& check_size);
// With &, <, >, ' and " as HTML has them.
std::string escaped(std::string_view text);

}  // namespace fewbit::jinja
