#include "fewbit/base/named_options.h"

#include <algorithm>
#include <cctype>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Far more than anyone needs; keeps hostile input small.
constexpr size_t kMaxBytes = 1 << 20;
constexpr size_t kMaxItems = 64;

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) {
    text.remove_suffix(1);
  }
  return text;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.push_back(trim(text.substr(0, at)));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

}  // namespace

bool is_option_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.';
  });
}

bool is_option_value(std::string_view text) {
  return !text.empty() && text.find_first_of(",|\n") == std::string_view::npos &&
         trim(text) == text;
}

NamedOptions parse_named_options(std::string_view item) {
  NamedOptions parsed;
  const size_t colon = item.find(':');
  parsed.name = std::string(trim(item.substr(0, colon)));
  require(is_option_word(parsed.name), "'{}' is not a name; written as name:key=value,...",
          parsed.name);
  if (colon == std::string_view::npos) return parsed;
  for (const std::string_view part : split(item.substr(colon + 1), ',')) {
    const size_t equals = part.find('=');
    require(equals != std::string_view::npos, "{}: '{}' is not key=value", parsed.name, part);
    const std::string key(trim(part.substr(0, equals)));
    const std::string value(trim(part.substr(equals + 1)));
    require(is_option_word(key), "{}: '{}' is not the name of an option", parsed.name, key);
    require(is_option_value(value), "{}: option '{}' has no value", parsed.name, key);
    require(parsed.options.emplace(key, value).second, "{}: option '{}' is given twice",
            parsed.name, key);
  }
  return parsed;
}

std::vector<NamedOptions> parse_named_options_list(std::string_view list, std::string_view what) {
  require(list.size() <= kMaxBytes, "{}: longer than {} bytes", what, kMaxBytes);
  const auto parts = split(list, '|');
  require(parts.size() <= kMaxItems, "{}: more than {} parts", what, kMaxItems);
  std::vector<NamedOptions> items;
  for (size_t i = 0; i < parts.size(); ++i) {
    items.push_back(with_context(fmt::format("{} {}", what, i + 1),
                                 [&] { return parse_named_options(parts[i]); }));
  }
  return items;
}

std::string to_text(const NamedOptions& item) {
  std::string text = item.name;
  char separator = ':';
  for (const auto& [key, value] : item.options) {
    text += fmt::format("{}{}={}", separator, key, value);
    separator = ',';
  }
  return text;
}

}  // namespace fewbit
