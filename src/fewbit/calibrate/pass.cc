#include "fewbit/calibrate/pass.h"

#include "fewbit/base/error.h"
#include "fewbit/formats/format_registry.h"

namespace fewbit {
namespace {

// '*' stands for any run of characters, dots included.
bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern.front() == '*') {
    for (size_t skip = 0; skip <= text.size(); ++skip) {
      if (matches(pattern.substr(1), text.substr(skip))) return true;
    }
    return false;
  }
  return !text.empty() && pattern.front() == text.front() &&
         matches(pattern.substr(1), text.substr(1));
}

const MethodInfo& find_method(std::span<const MethodInfo> methods, const std::string& name) {
  std::vector<std::string> known;
  for (const MethodInfo& method : methods) {
    if (method.name == name) return method;
    known.push_back(method.name);
  }
  fail("unknown method '{}'; known: {}", name, join_choices(known));
}

// Separates the options of the method from those of its format, and checks both.
std::unique_ptr<Pass> build_pass(const PassRequest& request, const MethodInfo& method) {
  const std::vector<OptionSpec> own = all_options(method);
  std::map<std::string, std::string> method_options, format_options;
  for (const auto& [key, value] : request.options) {
    bool is_own = false;
    for (const OptionSpec& spec : own) is_own = is_own || spec.name == key;
    (is_own || method.default_format.empty() ? method_options : format_options)[key] = value;
  }
  const auto chosen = method_options.find("format");
  const std::string format =
      chosen != method_options.end() ? chosen->second : method.default_format;
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
  if (!format.empty()) grid = GridChoice(format, std::move(format_options));
  return method.make(OptionValues(own, method_options), std::move(grid));
}

}  // namespace

LayerSelection::LayerSelection(std::string text) : text_(std::move(text)) {
  size_t begin = 0;
  for (;;) {
    const size_t end = text_.find('+', begin);
    const std::string part =
        text_.substr(begin, end == std::string::npos ? std::string::npos : end - begin);
    require(!part.empty(),
            "option 'layers': '{}' has an empty part; joined by '+' are blocks, "
            "embed, head or patterns such as blocks.*.mlp.down",
            text_);
    patterns_.push_back(part == "blocks" ? "blocks.*" : part);
    if (end == std::string::npos) return;
    begin = end + 1;
  }
}

bool LayerSelection::contains(std::string_view layer) const {
  for (const std::string& pattern : patterns_) {
    if (matches(pattern, layer)) return true;
  }
  return false;
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
  std::vector<std::unique_ptr<Pass>> passes;
  for (size_t i = 0; i < recipe.passes.size(); ++i) {
    const PassRequest& request = recipe.passes[i];
    passes.push_back(with_context(fmt::format("recipe: pass {} ({})", i + 1, request.method), [&] {
      auto pass = build_pass(request, find_method(methods, request.method));
      pass->check(spec);
      return pass;
    }));
  }
  return passes;
}

}  // namespace fewbit
