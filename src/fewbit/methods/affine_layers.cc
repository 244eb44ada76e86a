#include "fewbit/methods/affine_layers.h"

#include "fewbit/base/error.h"
#include "fewbit/methods/layer_quantizer.h"
#include "fewbit/model/wiring.h"

namespace fewbit {
namespace {

const UniformGridOptions& uniform_options(const Grid& grid) {
  const auto* uniform = dynamic_cast<const UniformGrid*>(&grid);
  if (!uniform) throw std::logic_error("a trained affine layer on another grid than uniform");
  return uniform->options();
}

// Columns of a group; Error unless they divide the layer's.
size_t group_width(const UniformGridOptions& options, size_t columns, std::string_view layer,
                   std::string_view method) {
  if (options.group_size == 0 || options.group_size >= columns) return columns;
  require(
      columns % options.group_size == 0,
      "option 'group_size': {} does not divide the {} inputs of {}, and {} trains whole groups; "
      "allowed: divisors of {}, or -1 for the whole row",
      options.group_size, columns, layer, method, columns);
  return options.group_size;
}

}  // namespace

void check_affine_layout(const ModelSpec& spec, const LayerSelection& selection,
                         const GridChoice& choice, std::string_view method) {
  using Options = UniformGridOptions;
  check_selection(spec, selection);
  require(!selection.contains("embed") && !selection.contains("head"),
          "option 'layers': {} compares the outputs of blocks, and embed and head are outside; "
          "quantize them with rtn or gptq",
          method);
  const auto grid = choice.grid();
  const Options& options = uniform_options(*grid);
  require(options.symmetry == Options::Symmetry::asymmetric,
          "option 'symmetry': {} learns both ends of a range; allowed: asymmetric", method);
  require(options.clip == Options::Clip::none,
          "option 'clip': {} learns the ranges itself; allowed: none", method);
  const Wiring wiring = wiring_of(spec);
  for (const std::string& layer : quantizable_linears(spec)) {
    if (selection.contains(layer)) {
      group_width(options, step_of(wiring, layer).in_features, layer, method);
    }
  }
}

std::vector<AffineLayer> affine_layers(const BlockContext& block, const LayerSelection& selection,
                                       const GridChoice& choice, const AffineLayerMaker& make) {
  std::vector<AffineLayer> layers;
  for (const std::string& name : selected_layers(block, selection)) {
    const at::Tensor weight = block.parameters.at(name + ".weight").detach();
    const auto grid = choice.grid(settings_of(block, name));
    const UniformGridOptions& options = uniform_options(*grid);
    const auto columns = static_cast<size_t>(weight.size(1));
    const size_t width = group_width(options, columns, name, "the plan");
    const AffineQuantizer quantizer{
        options.bits,
        width == columns
            ? ScaleGroups::per_row(weight.size(0), weight.size(1))
            : ScaleGroups::per_group(weight.size(0), weight.size(1), static_cast<int64_t>(width)),
        options.scale_dtype};
    layers.push_back({name, make(quantizer, weight)});
  }
  return layers;
}

ParameterMap quantized_parameters(ParameterMap parameters, const std::vector<AffineLayer>& layers) {
  for (const AffineLayer& layer : layers) {
    at::Tensor& weight = parameters.at(layer.weight_name());
    weight = layer.quantizer->forward(weight);
  }
  return parameters;
}

void store_affine_layers(BlockContext& block, const std::vector<AffineLayer>& layers,
                         std::string_view method) {
  for (const AffineLayer& layer : layers) {
    const at::Tensor weight = block.parameters.at(layer.weight_name());
    quantize_layer(block, layer.name, method, [&](MatrixView<const float>) {
      return LayerOutcome{layer.quantizer->bake(weight), {}, {}};
    });
  }
}

void report_reconstruction(BlockContext& block, std::string_view method,
                           const ReconstructReport& report, double seconds) {
  block.transforms.push_back({.where = block.info().name,
                              .method = std::string(method),
                              .detail = fmt::format("{} steps", report.step_losses.size()),
                              .objective_before = report.first_loss,
                              .objective_after = report.last_loss,
                              .losses = report.step_losses,
                              .seconds = seconds});
}

}  // namespace fewbit
