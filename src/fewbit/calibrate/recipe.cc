#include "fewbit/calibrate/recipe.h"

#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/named_options.h"
#include "fewbit/base/toml.h"

namespace fewbit {
namespace {

// Far more than any recipe needs; keeps hostile input small.
constexpr size_t kMaxPasses = 64;

PassRequest pass_from(NamedOptions item) { return {std::move(item.name), std::move(item.options)}; }

std::string option_text(const toml::node& node, std::string_view key) {
  if (const auto text = node.value_exact<std::string>()) {
    require(is_option_value(*text), "option '{}': text without ',', '|' or line breaks is expected",
            key);
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
  require(is_option_word(*method), "'{}' is not the name of a method", *method);
  pass.method = *method;
  for (const auto& [key, node] : table) {
    if (key.str() == "method") continue;
    require(is_option_word(key.str()), "'{}' is not the name of an option", key.str());
    pass.options[std::string(key.str())] = option_text(node, key.str());
  }
  return pass;
}

}  // namespace

Recipe Recipe::parse(std::string_view one_line) {
  Recipe recipe;
  for (NamedOptions& item : parse_named_options_list(one_line, "recipe: pass")) {
    recipe.passes.push_back(pass_from(std::move(item)));
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
    text += to_text(NamedOptions{pass.method, pass.options});
  }
  return text;
}

}  // namespace fewbit
