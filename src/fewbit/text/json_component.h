// Helpers for the components of tokenizer.json: objects with a "type".
#pragma once

#include <string>
#include <string_view>

#include "fewbit/base/json.h"
#include "fewbit/text/regex.h"

namespace fewbit {

// The value of "type" of an object.
std::string component_type(const Json& component);

// "key": {"String": text} or {"Regex": pattern}, as Replace and Split have it.
Regex component_pattern(const Json& component, const char* key);

// The only character of a string value, "▁" if the key is absent.
std::string component_replacement(const Json& component);

// Calls read(item) for every item of the array at `key`, with "key[i]" in front of errors.
template <class Read>
void for_each_component(const Json& component, const char* key, Read&& read) {
  const auto found = component.find(key);
  require(found != component.end() && found->is_array(), "key '{}' is not an array", key);
  for (size_t i = 0; i < found->size(); ++i) {
    with_context(fmt::format("{}[{}]", key, i), [&] { read((*found)[i]); });
  }
}

}  // namespace fewbit
