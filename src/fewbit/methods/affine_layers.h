// What the methods share that train an affine quantizer for every layer of a block: which layouts
// they can train, and the layers with their quantizers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fewbit/calibrate/pass.h"
#include "fewbit/calibrate/reconstruct.h"
#include "fewbit/formats/uniform_grid.h"
#include "fewbit/train/quantizer_affine.h"

namespace fewbit {

// A layer whose dense weight is a function of a trained quantizer.
struct AffineLayer {
  std::string name;
  std::unique_ptr<FakeQuant> quantizer;

  std::string weight_name() const { return name + ".weight"; }
};

// Makes the quantizer of a weight [out, in].
using AffineLayerMaker =
    std::function<std::unique_ptr<FakeQuant>(const AffineQuantizer&, const at::Tensor&)>;

// Throws an Error that names the option unless the format is uniform and asymmetric without a
// clipping search (the method learns the ranges), and its groups divide the inputs of every
// selected layer. Selected layers must be linears of blocks: the methods compare blocks' outputs.
void check_affine_layout(const ModelSpec& spec, const LayerSelection& selection,
                         const GridChoice& grid, std::string_view method);

// The selected layers of the block, each with a fresh quantizer for its current weight.
std::vector<AffineLayer> affine_layers(const BlockContext& block, const LayerSelection& selection,
                                       const GridChoice& grid, const AffineLayerMaker& make);

// `parameters` with the quantized weights of the layers in place, differentiable.
ParameterMap quantized_parameters(ParameterMap parameters, const std::vector<AffineLayer>& layers);

// Stores the codes of all layers for the block's current weights.
void store_affine_layers(BlockContext& block, const std::vector<AffineLayer>& layers,
                         std::string_view method);

// Adds what a reconstruction came to to the block's reports.
void report_reconstruction(BlockContext& block, std::string_view method,
                           const ReconstructReport& report, double seconds);

}  // namespace fewbit
