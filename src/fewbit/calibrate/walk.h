// The walk: block by block through a model, each block handed to all passes in turn, its output
// under the new weights becoming the next block's input. One block's weights, its statistics and
// the hidden states of the calibration sequences are alive at a time; twice the states if a pass
// needs the exact stream, in which every block runs as it was before anything was lost.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "fewbit/calibrate/pass.h"
#include "fewbit/network/block_model.h"

namespace fewbit {

// Token sequences that statistics are collected on.
struct CalibrationSet {
  // [sequences, length] int64, or undefined: no calibration.
  at::Tensor tokens;
  // Sequences that run through a block together.
  size_t batch = 4;
  std::string description;  // For reports: file, offsets, seed.
};

// What a finished block came to.
struct WalkedBlock {
  const BlockInfo& info;
  // Tensors as the following blocks see them: dequantized where `quantized` has the layer.
  const ParameterMap& parameters;
  std::map<std::string, QuantizedMatrix, std::less<>>& quantized;
  std::vector<LayerReport>& reports;
  std::vector<TransformReport>& transforms;
};

struct WalkOptions {
  LayerPlan plan;
  bool show_progress = true;
};

// Walks all blocks, embedding and head included, and calls `done` for each in order. Errors: a pass
// that needs calibration and has none; Interrupted between blocks.
void walk_blocks(const BlockModel& model, const ModelSpec& spec,
                 std::span<const std::unique_ptr<Pass>> passes, const CalibrationSet& calibration,
                 const WalkOptions& options, const std::function<void(WalkedBlock&)>& done);

}  // namespace fewbit
