#include "fewbit/calibrate/pass.h"

#include "fewbit/base/error.h"
#include "fewbit/formats/format_registry.h"

namespace fewbit {
namespace {

const MethodInfo& find_method(std::span<const MethodInfo> methods, const std::string& name) {
  std::vector<std::string> known;
  for (const MethodInfo& method : methods) {
    if (method.name == name) return method;
    known.push_back(method.name);
  }
  fail("unknown method '{}'; known: {}", name, join_choices(known));
}

// The options of a request, those of the method apart from those of its format.
struct SplitOptions {
  std::map<std::string, std::string> method, format_options;
  std::string format;
  bool format_given = false;
};

SplitOptions split_options(const PassRequest& request, const MethodInfo& method) {
  const std::vector<OptionSpec> own = all_options(method);
  SplitOptions split;
  for (const auto& [key, value] : request.options) {
    bool is_own = false;
    for (const OptionSpec& spec : own) is_own = is_own || spec.name == key;
    (is_own || method.default_format.empty() ? split.method : split.format_options)[key] = value;
  }
  const auto chosen = split.method.find("format");
  split.format_given = chosen != split.method.end();
  split.format = split.format_given ? chosen->second : method.default_format;
  return split;
}

// Completes the format of a pass that looks ahead by that of the next quantizing pass, unless the
// recipe has given it another one.
void take_format_of_next(std::span<const PassRequest> later, std::span<const MethodInfo> methods,
                         SplitOptions& split) {
  for (const PassRequest& request : later) {
    const MethodInfo& method = find_method(methods, request.method);
    if (method.kind != PassKind::quantize || method.default_format.empty()) continue;
    const SplitOptions next = split_options(request, method);
    if (split.format_given && split.format != next.format) return;
    split.format = next.format;
    split.format_options.insert(next.format_options.begin(), next.format_options.end());
    return;
  }
}

// Checks the options of a pass and makes it.
std::unique_ptr<Pass> build_pass(const SplitOptions& split, const MethodInfo& method) {
  const std::vector<OptionSpec> own = all_options(method);
  const auto& [method_options, format_options, format, format_given] = split;
  if (!format.empty()) {
    std::vector<std::string> known;
    for (const OptionSpec& spec : own) known.push_back(spec.name);
    for (const OptionSpec& spec : find_format(format).options) known.push_back(spec.name);
    for (const auto& [key, value] : format_options) {
      require(std::find(known.begin(), known.end(), key) != known.end(),
              "unknown option '{}'; known with format {}: {}", key, format, join_choices(known));
    }
  }
  GridChoice grid;
  if (!format.empty()) grid = GridChoice(format, format_options);
  return method.make(OptionValues(own, method_options), std::move(grid));
}

}  // namespace

ParameterMap BlockContext::exact_parameters() const {
  ParameterMap result = parameters;
  for (const auto& [name, tensor] : exact) result[name] = tensor;
  return result;
}

GridChoice::GridChoice(std::string format, std::map<std::string, std::string> options)
    : format_(std::move(format)), options_(std::move(options)) {
  (void)grid();  // Reports wrong options now, before any weight is read.
}

std::unique_ptr<Grid> GridChoice::grid(const LayerSettings& settings) const {
  std::map<std::string, std::string> options = options_;
  if (settings.bits) options["bits"] = std::to_string(*settings.bits);
  if (settings.group_size) options["group_size"] = std::to_string(*settings.group_size);
  return grid_from_options(format_, options);
}

std::vector<OptionSpec> all_options(const MethodInfo& method) {
  std::vector<OptionSpec> options = method.options;
  if (!method.default_format.empty() && method.choose_format) {
    std::vector<std::string> names;
    for (const Format& format : formats()) names.push_back(format.name);
    options.push_back(OptionSpec::make_choice("format", method.default_format, names,
                                              "how codes are stored; its own options may follow"));
  }
  options.push_back(OptionSpec::make_text(
      "layers", "blocks",
      "which layers: blocks, embed, head or patterns over canonical names, joined by '+'"));
  return options;
}

std::vector<std::unique_ptr<Pass>> build_passes(const Recipe& recipe,
                                                std::span<const MethodInfo> methods,
                                                const ModelSpec& spec) {
  const std::span<const PassRequest> requests = recipe.passes;
  std::vector<std::unique_ptr<Pass>> passes(requests.size());
  // From the last to the first, so that a wrong option is reported where it stands and not by a
  // pass before it that looks ahead.
  for (size_t i = requests.size(); i-- > 0;) {
    passes[i] = with_context(fmt::format("recipe: pass {} ({})", i + 1, requests[i].method), [&] {
      const MethodInfo& method = find_method(methods, requests[i].method);
      SplitOptions split = split_options(requests[i], method);
      if (method.grid_of_next) take_format_of_next(requests.subspan(i + 1), methods, split);
      auto pass = build_pass(split, method);
      pass->check(spec);
      return pass;
    });
  }
  return passes;
}

}  // namespace fewbit
