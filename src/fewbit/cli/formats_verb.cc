// fewbit formats: the formats that a recipe may name, with their options and what they cost.
#include <fmt/format.h>

#include "fewbit/base/json.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/formats/simd.h"

namespace fewbit::cli {
namespace {

// A layer as language models have it; few rows, since bits per weight do not depend on them.
constexpr size_t kRows = 64, kCols = 4096;

struct Facts {
  std::string stored_as;
  double bits_per_weight;
  const char* fits_over;
};

const char* word_of(FitScope scope) {
  switch (scope) {
    case FitScope::group:
      return "groups of columns, row by row";
    case FitScope::row:
      return "whole rows";
    case FitScope::matrix:
      return "the whole matrix";
  }
  return "";
}

// Measured on a matrix that is really quantised, with the format's defaults.
Facts facts_of(const Format& format) {
  const auto grid = grid_from_options(format.name, {});
  const Matrix zeros(kRows, kCols);
  const QuantizedMatrix matrix = quantize_to_nearest(*grid, zeros.view());
  return {matrix.describe(), matrix.bits_per_weight(),
          word_of(grid->begin(kRows, kCols)->shape().scope)};
}

Json to_json(const Format& format) {
  const Facts facts = facts_of(format);
  Json options = Json::array();
  for (const OptionSpec& option : format.options) {
    options.push_back({{"name", option.name},
                       {"default", option.default_value},
                       {"allowed", option.allowed()},
                       {"help", option.help}});
  }
  return {{"name", format.name},
          {"help", format.help},
          {"source", format.source},
          {"stored_as", facts.stored_as},
          {"fits_over", facts.fits_over},
          {"bits_per_weight", facts.bits_per_weight},
          {"options", options}};
}

void print(const Format& format) {
  const Facts facts = facts_of(format);
  fmt::print("{}: {}\n  source: {}\n", format.name, format.help, format.source);
  fmt::print("  with the defaults: {}; {:.4g} bits per weight stored; fits over {}\n",
             facts.stored_as, facts.bits_per_weight, facts.fits_over);
  for (const OptionSpec& option : format.options) {
    fmt::print("    {:<18} {} (default {}; {})\n", option.name, option.help, option.default_value,
               option.allowed());
  }
  fmt::print("\n");
}

void print_formats(const std::string& name, bool json) {
  std::vector<const Format*> wanted;
  if (name.empty()) {
    for (const Format& format : formats()) wanted.push_back(&format);
  } else {
    wanted.push_back(&find_format(name));
  }
  if (json) {
    Json list = Json::array();
    for (const Format* format : wanted) list.push_back(to_json(*format));
    fmt::print("{}\n", Json{{"simd", simd_target_name()}, {"formats", list}}.dump(2));
    return;
  }
  for (const Format* format : wanted) print(*format);
  fmt::print("Quantising kernels on this machine: {}\n", simd_target_name());
}

}  // namespace

void add_formats_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("formats", "List the formats that a recipe may name");
  verb->footer("Examples:\n  fewbit formats\n  fewbit formats uniform --json");
  auto name = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  verb->add_option("name", *name, "only this format");
  verb->add_flag("--json", *json, "machine-readable");
  verb->callback([name, json] { print_formats(*name, *json); });
}

}  // namespace fewbit::cli
