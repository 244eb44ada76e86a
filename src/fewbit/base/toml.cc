#include "fewbit/base/toml.h"

#include <algorithm>
#include <sstream>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/options.h"

namespace fewbit {
namespace {

constexpr size_t kMaxTomlBytes = 1 << 20;
// toml++ limits nested values, but not dotted keys, whose tables it destroys recursively: more dots
// than any configuration holds are refused before parsing.
constexpr size_t kMaxDots = 4096;

}  // namespace

toml::table parse_toml(std::string_view text, std::string_view what) {
  require(text.size() <= kMaxTomlBytes, "{}: longer than {} bytes", what, kMaxTomlBytes);
  require(static_cast<size_t>(std::count(text.begin(), text.end(), '.')) <= kMaxDots,
          "{}: more than {} dots", what, kMaxDots);
  try {
    return toml::parse(text, what);
  } catch (const toml::parse_error& error) {
    std::ostringstream place;
    place << error.source().begin;
    fail("{}: {}: {}", what, place.str(), error.description());
  }
}

toml::table parse_toml_file(const std::filesystem::path& path) {
  return parse_toml(read_text_file(path, kMaxTomlBytes), path.string());
}

void TomlTable::fail_at(std::string_view key, const std::string& expected) const {
  fail("{}: key '{}': expected {}", where_, key, expected);
}

const toml::node* TomlTable::find(std::string_view key) {
  known_.emplace(key);
  return table_->get(key);
}

const toml::node& TomlTable::require_node(std::string_view key) {
  const toml::node* node = find(key);
  require(node != nullptr, "{}: key '{}' is missing", where_, key);
  return *node;
}

bool TomlTable::contains(std::string_view key) { return find(key) != nullptr; }

template <class T>
T TomlTable::number(const toml::node& node, std::string_view key, T min, T max) const {
  std::optional<T> value = node.value_exact<T>();
  if constexpr (std::is_same_v<T, double>) {
    // A whole number is a fine real.
    if (const auto whole = node.value_exact<int64_t>()) value = static_cast<double>(*whole);
  }
  if (!value || !(*value >= min && *value <= max)) {
    fail_at(key, fmt::format("{} from {} to {}",
                             std::is_same_v<T, double> ? "a number" : "a whole number", min, max));
  }
  return *value;
}

int64_t TomlTable::integer(std::string_view key, int64_t min, int64_t max) {
  return number<int64_t>(require_node(key), key, min, max);
}

double TomlTable::real(std::string_view key, double min, double max) {
  return number<double>(require_node(key), key, min, max);
}

std::string TomlTable::text(std::string_view key) {
  const auto value = require_node(key).value_exact<std::string>();
  if (!value) fail_at(key, "a text");
  return *value;
}

int64_t TomlTable::integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max) {
  return contains(key) ? integer(key, min, max) : fallback;
}

double TomlTable::real_or(std::string_view key, double fallback, double min, double max) {
  return contains(key) ? real(key, min, max) : fallback;
}

bool TomlTable::boolean_or(std::string_view key, bool fallback) {
  const toml::node* node = find(key);
  if (!node) return fallback;
  const auto value = node->value_exact<bool>();
  if (!value) fail_at(key, "true or false");
  return *value;
}

std::string TomlTable::text_or(std::string_view key, std::string fallback) {
  return contains(key) ? text(key) : fallback;
}

std::string TomlTable::choice_or(std::string_view key, std::string fallback,
                                 const std::vector<std::string>& allowed) {
  const std::string value = text_or(key, std::move(fallback));
  for (const std::string& word : allowed) {
    if (word == value) return value;
  }
  fail_at(key, join_choices(allowed));
}

template <class T, class Read>
std::vector<T> TomlTable::list(std::string_view key, Read read) {
  const toml::node* node = find(key);
  std::vector<T> values;
  if (!node) return values;
  if (const toml::array* array = node->as_array()) {
    for (const toml::node& item : *array) values.push_back(read(item));
  } else {
    values.push_back(read(*node));
  }
  return values;
}

std::vector<std::string> TomlTable::texts(std::string_view key) {
  return list<std::string>(key, [&](const toml::node& item) {
    const auto value = item.value_exact<std::string>();
    if (!value) fail_at(key, "a list of texts");
    return *value;
  });
}

std::vector<int64_t> TomlTable::integers(std::string_view key, int64_t min, int64_t max) {
  return list<int64_t>(
      key, [&](const toml::node& item) { return number<int64_t>(item, key, min, max); });
}

std::vector<double> TomlTable::reals(std::string_view key, double min, double max) {
  return list<double>(key,
                      [&](const toml::node& item) { return number<double>(item, key, min, max); });
}

std::optional<TomlTable> TomlTable::table(std::string_view key) {
  const toml::node* node = find(key);
  if (!node) return std::nullopt;
  if (!node->is_table()) fail_at(key, "a table");
  return TomlTable(*node->as_table(), fmt::format("{}: [{}]", where_, key));
}

std::vector<TomlTable> TomlTable::tables(std::string_view key) {
  const toml::node* node = find(key);
  std::vector<TomlTable> result;
  if (!node) return result;
  const toml::array* array = node->as_array();
  if (!array || !array->is_array_of_tables()) fail_at(key, fmt::format("[[{}]] tables", key));
  for (size_t i = 0; i < array->size(); ++i) {
    result.emplace_back(*array->get_as<toml::table>(i),
                        fmt::format("{}: [[{}]] {}", where_, key, i + 1));
  }
  return result;
}

void TomlTable::finish() const {
  for (const auto& [key, node] : *table_) {
    if (known_.contains(key.str())) continue;
    const std::vector<std::string> known(known_.begin(), known_.end());
    fail("{}: unknown key '{}'; known: {}", where_, key.str(), join_choices(known));
  }
}

}  // namespace fewbit
