#include "fewbit/calibrate/recipe.h"

#include <algorithm>
#include <cctype>

#include "fewbit/base/error.h"
#include "fewbit/base/toml.h"

namespace fewbit {
namespace {

// Far more than any recipe needs; keeps hostile input small.
constexpr size_t kMaxRecipeBytes = 1 << 20;
constexpr size_t kMaxPasses = 64;

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

// Method and option names: what can stand in the one-line form without quoting.
bool is_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.';
  });
}

// Values may hold everything but the separators of the one-line form.
bool is_value(std::string_view text) {
  return !text.empty() && text.find_first_of(",|\n") == std::string_view::npos &&
         trim(text) == text;
}

PassRequest parse_pass(std::string_view text) {
  PassRequest pass;
  const size_t colon = text.find(':');
  pass.method = std::string(trim(text.substr(0, colon)));
  require(is_word(pass.method), "'{}' is not the name of a method; written as method:key=value,...",
          pass.method);
  if (colon == std::string_view::npos) return pass;
  for (const std::string_view item : split(text.substr(colon + 1), ',')) {
    const size_t equals = item.find('=');
    require(equals != std::string_view::npos, "{}: '{}' is not key=value", pass.method, item);
    const std::string key(trim(item.substr(0, equals)));
    const std::string value(trim(item.substr(equals + 1)));
    require(is_word(key), "{}: '{}' is not the name of an option", pass.method, key);
    require(is_value(value), "{}: option '{}' has no value", pass.method, key);
    require(pass.options.emplace(key, value).second, "{}: option '{}' is given twice", pass.method,
            key);
  }
  return pass;
}

std::string option_text(const toml::node& node, std::string_view key) {
  if (const auto text = node.value_exact<std::string>()) {
    require(is_value(*text), "option '{}': text without ',', '|' or line breaks is expected", key);
    return *text;
  }
  if (const auto number = node.value_exact<int64_t>()) return fmt::format("{}", *number);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  fail("option '{}': a number, a text, true or false is expected", key);
}

PassRequest pass_from_toml(const toml::table& table) {
  PassRequest pass;
  const auto method = table["method"].value_exact<std::string>();
  require(method.has_value(), "key 'method' (a text) is missing");
  require(is_word(*method), "'{}' is not the name of a method", *method);
  pass.method = *method;
  for (const auto& [key, node] : table) {
    if (key.str() == "method") continue;
    require(is_word(key.str()), "'{}' is not the name of an option", key.str());
    pass.options[std::string(key.str())] = option_text(node, key.str());
  }
  return pass;
}

}  // namespace

Recipe Recipe::parse(std::string_view one_line) {
  require(one_line.size() <= kMaxRecipeBytes, "recipe: longer than {} bytes", kMaxRecipeBytes);
  Recipe recipe;
  const auto parts = split(one_line, '|');
  require(parts.size() <= kMaxPasses, "recipe: more than {} passes", kMaxPasses);
  for (size_t i = 0; i < parts.size(); ++i) {
    recipe.passes.push_back(
        with_context(fmt::format("recipe: pass {}", i + 1), [&] { return parse_pass(parts[i]); }));
  }
  recipe.name = recipe.text();
  return recipe;
}

Recipe Recipe::from_toml(const toml::table& table, std::string_view where) {
  return with_context(where, [&] {
    Recipe recipe;
    for (const auto& [key, node] : table) {
      require(key.str() == "name" || key.str() == "pass" || key.str() == "recipe",
              "unknown key '{}'; known: name, pass, recipe", key.str());
    }
    if (const auto line = table["recipe"].value_exact<std::string>()) {
      require(!table.contains("pass"), "either 'recipe' or [[pass]] tables, not both");
      recipe = parse(*line);
    } else {
      const toml::array* tables = table["pass"].as_array();
      require(tables && !tables->empty() && tables->is_array_of_tables(),
              "at least one [[pass]] table, or recipe = \"...\", is expected");
      require(tables->size() <= kMaxPasses, "more than {} passes", kMaxPasses);
      for (size_t i = 0; i < tables->size(); ++i) {
        recipe.passes.push_back(with_context(fmt::format("pass {}", i + 1), [&] {
          return pass_from_toml(*tables->get_as<toml::table>(i));
        }));
      }
      recipe.name = recipe.text();
    }
    if (table.contains("name")) {
      const auto given = table["name"].value_exact<std::string>();
      require(given && !given->empty(), "key 'name': a text is expected");
      recipe.name = *given;
    }
    return recipe;
  });
}

Recipe Recipe::read(const std::string& path_or_line) {
  if (!path_or_line.ends_with(".toml")) return parse(path_or_line);
  return from_toml(parse_toml_file(path_or_line), path_or_line);
}

std::string Recipe::text() const {
  std::string text;
  for (const PassRequest& pass : passes) {
    if (!text.empty()) text += " | ";
    text += pass.method;
    char separator = ':';
    for (const auto& [key, value] : pass.options) {
      text += fmt::format("{}{}={}", separator, key, value);
      separator = ',';
    }
  }
  return text;
}

}  // namespace fewbit
