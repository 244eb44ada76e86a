#include "fewbit/text/json_component.h"

#include "fewbit/text/unicode.h"

namespace fewbit {

std::string component_type(const Json& component) {
  return json_get<std::string>(component, "type");
}

Regex component_pattern(const Json& component, const char* key) {
  const Json pattern = json_get<Json>(component, key);
  return with_context(fmt::format("key '{}'", key), [&] {
    require(pattern.is_object() && pattern.size() == 1,
            "expected {{\"String\": text}} or {{\"Regex\": pattern}}");
    if (pattern.contains("String")) return Regex::literal(json_get<std::string>(pattern, "String"));
    return Regex::compile(json_get<std::string>(pattern, "Regex"));
  });
}

std::string component_replacement(const Json& component) {
  const std::string text = json_get_or<std::string>(component, "replacement", "\u2581");
  require(!text.empty() && decode_utf8(text, 0).length == text.size(),
          "key 'replacement': '{}' is not one character", text);
  return text;
}

}  // namespace fewbit
