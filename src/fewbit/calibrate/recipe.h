// Recipe: an ordered list of passes with options, in one line or in TOML.
//
//   rtn:bits=4,group_size=64
//   gptq:bits=3,group_size=128,act_order=static | rtn:bits=8,layers=embed+head
//
//   name = "gptq3"
//   [[pass]]
//   method = "gptq"
//   bits = 3
//
// A recipe only names passes; build_passes() checks them against a table of methods and a ModelSpec
// before any weight is read.
#pragma once

#include <toml++/toml.h>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

struct PassRequest {
  std::string method;
  std::map<std::string, std::string> options;  // As the user wrote them.
  friend bool operator==(const PassRequest&, const PassRequest&) = default;
};

struct Recipe {
  std::string name;  // For tables; the one-line text if the user gave none.
  std::vector<PassRequest> passes;

  // Errors name the pass (its place and method) and the key.
  static Recipe parse(std::string_view one_line);
  // `where` names the table in errors ("study.toml: recipe 2").
  static Recipe from_toml(const toml::table& table, std::string_view where);
  // A path ending in .toml is read as a file, anything else is parsed as one line.
  static Recipe read(const std::string& path_or_line);

  // Canonical one-line form; parse(text()) gives the same passes.
  std::string text() const;
};

}  // namespace fewbit
