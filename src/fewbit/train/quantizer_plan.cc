#include "fewbit/train/quantizer_plan.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/named_options.h"
#include "fewbit/model/wiring.h"
#include "fewbit/train/quantizer_registry.h"

namespace fewbit {
namespace {

constexpr std::string_view kFloat = "float";
constexpr const char* kLayers = "layers";

}  // namespace

QuantizerPlan QuantizerPlan::parse(std::string_view line) {
  QuantizerPlan plan;
  for (NamedOptions& item : parse_named_options_list(line, "quantizer")) {
    plan.text_ += (plan.text_.empty() ? "" : " | ") + to_text(item);
    QuantizerChoice choice;
    choice.name = item.name;
    if (const auto layers = item.options.find(kLayers); layers != item.options.end()) {
      choice.layers = LayerSelection(layers->second);
      item.options.erase(layers);
    }
    choice.options = std::move(item.options);
    if (choice.name == kFloat) {
      require(choice.options.empty(), "{}: takes no option but layers", kFloat);
      require(!plan.choices_.empty(), "{}: leaves layers of a quantizer before it alone", kFloat);
    } else {
      with_context(choice.name, [&] {
        const OptionValues values(find_quantizer(choice.name).options, choice.options);
        choice.bits = std::stod(values.text("bits"));
      });
    }
    plan.choices_.push_back(std::move(choice));
  }
  return plan;
}

const QuantizerChoice* QuantizerPlan::choice(std::string_view layer) const {
  for (auto choice = choices_.rbegin(); choice != choices_.rend(); ++choice) {
    if (choice->layers.contains(layer)) return choice->name == kFloat ? nullptr : &*choice;
  }
  return nullptr;
}

std::vector<std::string> QuantizerPlan::layers(const ModelSpec& spec) const {
  for (const QuantizerChoice& choice : choices_) {
    with_context(choice.name, [&] { check_selection(spec, choice.layers); });
  }
  std::vector<std::string> all = quantizable_linears(spec);
  all.insert(all.begin(), "embed");
  if (!spec.tied_head) all.push_back("head");
  std::erase_if(all, [&](const std::string& layer) { return !choice(layer); });
  return all;
}

double QuantizerPlan::mean_bits(const ModelSpec& spec) const {
  const std::vector<std::string> quantized = layers(spec);
  double bits = 0, weights = 0;
  for (const TensorSpec& tensor : model_tensors(spec)) {
    if (!tensor.name.ends_with(".weight")) continue;
    const std::string layer = tensor.name.substr(0, tensor.name.rfind('.'));
    if (std::find(quantized.begin(), quantized.end(), layer) == quantized.end()) continue;
    double elements = 1;
    for (const size_t size : tensor.shape) elements *= static_cast<double>(size);
    bits += choice(layer)->bits * elements;
    weights += elements;
  }
  return weights > 0 ? bits / weights : 0;
}

}  // namespace fewbit
