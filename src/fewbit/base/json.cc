#include "fewbit/base/json.h"

#include <set>
#include <vector>

namespace fewbit {

Json parse_json(std::string_view text, std::string_view what, size_t max_depth) {
  // The callback sees every key, so that duplicates are found before they overwrite each other.
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      require(static_cast<size_t>(depth) < max_depth, "{}: nested deeper than {} levels", what,
              max_depth);
    }
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys.back().insert(key).second, "{}: duplicate key '{}'", what, key);
    }
    return true;
  };
  // The parser takes a NUL byte for the end of the text and would ignore what follows.
  const size_t nul = text.find('\0');
  require(nul == std::string_view::npos, "{}: byte {} is NUL", what, nul);
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::exception& error) {
    fail("{}: {}", what, error.what());
  }
}

size_t json_get_size(const Json& object, const char* key, size_t max) {
  const Json value = json_get<Json>(object, key);
  require(value.is_number_integer() && (value.is_number_unsigned() || value.get<int64_t>() >= 0),
          "key '{}': {} is not a non-negative integer", key, value.dump().substr(0, 80));
  const uint64_t number = value.get<uint64_t>();
  require(number <= max, "key '{}': {} is above the limit of {}", key, number, max);
  return static_cast<size_t>(number);
}

size_t json_get_size_or(const Json& object, const char* key, size_t fallback, size_t max) {
  require(object.is_object(), "expected an object with the key '{}'", key);
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return fallback;
  return json_get_size(object, key, max);
}

}  // namespace fewbit
