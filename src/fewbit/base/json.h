// Thin glue over nlohmann::json: parsing of untrusted text with a depth limit, and typed access
// whose errors name the key.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "fewbit/base/error.h"

namespace fewbit {

using Json = nlohmann::json;

// Deeper nesting than any file we read has; protects the stack.
inline constexpr size_t kMaxJsonDepth = 64;

// Parses UTF-8 JSON. `what` names the text in errors ("model/config.json"). Duplicate keys within
// one object, invalid UTF-8 and nesting beyond `max_depth` are errors.
Json parse_json(std::string_view text, std::string_view what, size_t max_depth = kMaxJsonDepth);

// Value of `key` converted to T; Error if absent or of another type.
template <class T>
T json_get(const Json& object, const char* key) {
  require(object.is_object(), "expected an object with the key '{}'", key);
  const auto found = object.find(key);
  require(found != object.end(), "key '{}' is missing", key);
  try {
    return found->template get<T>();
  } catch (const Json::exception&) {
    fail("key '{}': {} is not of the expected type", key, found->dump().substr(0, 80));
  }
}

// The same, or `fallback` if the key is absent or null.
template <class T>
T json_get_or(const Json& object, const char* key, T fallback) {
  require(object.is_object(), "expected an object with the key '{}'", key);
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return fallback;
  return json_get<T>(object, key);
}

// A non-negative integer of at most `max`: negative, fractional or larger values are errors.
size_t json_get_size(const Json& object, const char* key, size_t max);
size_t json_get_size_or(const Json& object, const char* key, size_t fallback, size_t max);

}  // namespace fewbit
