// fewbit methods: the methods that a recipe may name, with their options.
#include <fmt/format.h>

#include "fewbit/base/json.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/methods/registry.h"

namespace fewbit::cli {
namespace {

void print_options(std::span<const OptionSpec> options) {
  for (const OptionSpec& option : options) {
    fmt::print("    {:<16} {} (default {}; {})\n", option.name, option.help,
               option.default_value.empty() ? "none" : option.default_value, option.allowed());
  }
}

Json options_json(std::span<const OptionSpec> options) {
  Json list = Json::array();
  for (const OptionSpec& option : options) {
    list.push_back({{"name", option.name},
                    {"default", option.default_value},
                    {"allowed", option.allowed()},
                    {"help", option.help}});
  }
  return list;
}

void print_methods(bool json) {
  Json list = Json::array();
  for (const MethodInfo& method : methods()) {
    const auto own = all_options(method);
    if (json) {
      list.push_back({{"name", method.name},
                      {"summary", method.summary},
                      {"source", method.source},
                      {"default_format", method.default_format},
                      {"options", options_json(own)}});
      continue;
    }
    fmt::print("{}: {}\n  source: {}\n", method.name, method.summary, method.source);
    print_options(own);
    if (!method.default_format.empty()) {
      fmt::print("    with format {}:\n", method.default_format);
      print_options(find_format(method.default_format).options);
    }
    fmt::print("\n");
  }
  if (json) fmt::print("{}\n", list.dump(2));
}

}  // namespace

void add_methods_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("methods", "List the methods that a recipe may name");
  verb->footer("Example:\n  fewbit quantize MODEL --recipe \"gptq:bits=3,group_size=64\" ...");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "machine-readable");
  verb->callback([json] { print_methods(*json); });
}

}  // namespace fewbit::cli
