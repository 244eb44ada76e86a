// The one-line form in which a user names a thing and its options: "gptq:bits=3,group_size=128".
//
//   list := item { '|' item }        item := name [ ':' key '=' value { ',' key '=' value } ]
//
// Names and keys are letters, digits, '_', '-' and '.'; values hold everything but ',' and '|'.
// Blanks around the parts do not matter.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

struct NamedOptions {
  std::string name;
  std::map<std::string, std::string> options;  // As the user wrote them.
  friend bool operator==(const NamedOptions&, const NamedOptions&) = default;
};

// Whether `text` may stand as a name or a key, and as a value.
bool is_option_word(std::string_view text);
bool is_option_value(std::string_view text);

// Errors quote the part that is wrong; those of a list begin with "`what` NUMBER".
NamedOptions parse_named_options(std::string_view item);
std::vector<NamedOptions> parse_named_options_list(std::string_view list, std::string_view what);

// Canonical form, options in the order of their keys.
std::string to_text(const NamedOptions& item);

}  // namespace fewbit
