// BlockModel: a network as a sequence of blocks with named linears and named sites. The block walk
// of calibration, statistics, GPTQ-like solvers, block reconstruction and training know only this;
// the decoder, the DiT and the CNNs implement it.
//
// Block 0 is the embedding (or stem) and the last block the head, so that running all blocks in
// order takes an input to a prediction. Weights are never inside the model: every run takes them
// from a map, in which any may be replaced by a function of trained parameters.
//
//   BlockState state{tokens, {}};
//   for (size_t b = 0; b < model.blocks().size(); ++b)
//     state = model.run(b, state, model.load_parameters(b));
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/model/model_spec.h"
#include "fewbit/model/wiring.h"

namespace fewbit {

// Tensors by canonical name: "blocks.3.attn.q.weight".
using ParameterMap = std::map<std::string, at::Tensor, std::less<>>;

// What flows between blocks.
struct BlockState {
  at::Tensor value;                                     // Decoder: tokens, then hidden states.
  std::map<std::string, at::Tensor, std::less<>> side;  // Constant along the walk.
};

struct BlockInfo {
  std::string name;                    // "embed", "blocks.3", "head".
  std::vector<Step> steps;             // In execution order; linears of one input.
  std::vector<TensorSpec> parameters;  // All tensors that run() needs.
  std::vector<std::string> sites;      // In the order in which run() passes them.
};

// What a caller may do inside a run.
struct BlockHooks {
  // Called at every site with the value there; the returned tensor is used in its stead (return
  // `value` to observe only). Rows are tokens: [.., features]; an expert's input has only the rows
  // routed to it. Sites of the decoder's block I:
  //   blocks.I.attn.input, blocks.I.attn.o.input, blocks.I.mlp.input, blocks.I.mlp.down.input,
  //   blocks.I.mlp.experts.E.input, blocks.I.mlp.experts.E.down.input     inputs of the steps
  //   blocks.I.attn.{q,k}_unrotated, blocks.I.attn.{q,k}_rotated, blocks.I.attn.v_heads
  //                                                  [batch, length, heads, head_size]
  //   blocks.I.attn.output                                                behind o, before any norm
  //   blocks.I.output                                                     the stream behind it
  // and head.input in the head.
  std::function<at::Tensor(const std::string& site, const at::Tensor& value)> at_site;
  // If not empty: the run ends as soon as this site has been passed to at_site, and returns an
  // undefined value.
  std::string stop_at;
  // Values that are known beforehand, by site: what leads to them alone is not computed, and no
  // site on the way is passed. The decoder takes blocks.I.attn.output; others are an Error.
  std::map<std::string, at::Tensor, std::less<>> known;
};

class BlockModel {
 public:
  virtual ~BlockModel() = default;

  virtual const std::vector<BlockInfo>& blocks() const = 0;
  // The stored tensors of one block as float32 on the model's device, read now.
  virtual ParameterMap load_parameters(size_t block) const = 0;
  // Runs one block. Differentiable in the state and in the parameters unless a NoGradGuard is held.
  // Const and thread-safe. Error if a parameter is absent from the map.
  virtual BlockState run(size_t block, const BlockState& state, const ParameterMap& parameters,
                         const BlockHooks& hooks = {}) const = 0;

  // All blocks' tensors in one map.
  ParameterMap load_all_parameters() const;
};

}  // namespace fewbit
