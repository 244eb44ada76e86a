// The formats by name: what `format=` of a recipe, `fewbit formats` and the docs know.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/options.h"
#include "fewbit/formats/grid.h"

namespace fewbit {

struct Format {
  std::string name;
  std::string help;
  std::string source;  // paper or public specification
  std::vector<OptionSpec> options;
  std::function<std::unique_ptr<Grid>(const OptionValues&)> make;
};

// All formats, in the order of the documentation.
std::span<const Format> formats();
// Error that names the known formats.
const Format& find_format(std::string_view name);
// The grid of format `name`; Errors name the key and its allowed values.
std::unique_ptr<Grid> grid_from_options(std::string_view name,
                                        const std::map<std::string, std::string>& options);

}  // namespace fewbit
