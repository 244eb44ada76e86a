// Strict reading of TOML files: every key must be known, every value of the expected type and
// range; errors name the file, the path of the key and what is allowed.
//
//   TomlTable root(parsed, "suite.toml");
//   const auto seed = root.integer("seed", 0, 0, INT64_MAX);
//   root.finish();   // refuses keys that nobody asked for
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

// Parses a file of at most 1 MiB; syntax errors name line and column.
toml::table parse_toml_file(const std::filesystem::path& path);
// `what` names the text in errors.
toml::table parse_toml(std::string_view text, std::string_view what);

// A borrowed table with its place in the file.
class TomlTable {
 public:
  TomlTable(const toml::table& table, std::string where)
      : table_(&table), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  bool contains(std::string_view key);

  // Required values.
  int64_t integer(std::string_view key, int64_t min, int64_t max);
  double real(std::string_view key, double min, double max);
  std::string text(std::string_view key);
  // With defaults.
  int64_t integer_or(std::string_view key, int64_t fallback, int64_t min, int64_t max);
  double real_or(std::string_view key, double fallback, double min, double max);
  bool boolean_or(std::string_view key, bool fallback);
  std::string text_or(std::string_view key, std::string fallback);
  // One of `allowed`.
  std::string choice_or(std::string_view key, std::string fallback,
                        const std::vector<std::string>& allowed);
  // A list, or a single value as a list of one; empty if absent.
  std::vector<std::string> texts(std::string_view key);
  std::vector<int64_t> integers(std::string_view key, int64_t min, int64_t max);
  std::vector<double> reals(std::string_view key, double min, double max);
  // A sub-table, or none; [[arrays of tables]], empty if absent.
  std::optional<TomlTable> table(std::string_view key);
  std::vector<TomlTable> tables(std::string_view key);

  const toml::table& raw() const { return *table_; }
  // Error if the table holds a key that no call above asked for.
  void finish() const;

 private:
  const toml::node* find(std::string_view key);
  const toml::node& require_node(std::string_view key);
  template <class T>
  T number(const toml::node& node, std::string_view key, T min, T max) const;
  template <class T, class Read>
  std::vector<T> list(std::string_view key, Read read);
  [[noreturn]] void fail_at(std::string_view key, const std::string& expected) const;

  const toml::table* table_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace fewbit
