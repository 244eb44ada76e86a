// Wiring: how the linears of a model hang together, derived from its ModelSpec. AWQ, SmoothQuant,
// LET, rotations, GPTQ know only this, never an architecture.
//
// A *step* is the set of linears that read one input: one Hessian, one scale vector, one fused
// product. Steps are in execution order. The scale of an input, x -> x / s with W -> W diag(s), can
// be folded into what makes the input (*fold*):
//   norm   the weight (and bias) of the norm `partner`: w -> w / s
//          (norm_plus_one: w -> (1 + w) / s - 1)
//   rows   output rows of the linear `partner` (and its bias): input column j comes from row
//          partner_row(j) alone, up to factors that a positive scale passes (softmax weights, the
//          gate, ReLU). Columns that share a row share a scale (grouped-query heads).
//   none   nothing: what cannot be folded becomes a T_in of the quantized matrix.
// After a fold all `readers` must get W -> W diag(s): for a mixture these are all experts and the
// router.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit {

enum class FoldKind { none, norm, rows };

struct Step {
  std::string site;                  // Name of the input: "blocks.3.attn.input".
  std::vector<std::string> linears;  // Layer names: "blocks.3.attn.q", ...
  size_t in_features = 0;
  FoldKind fold = FoldKind::none;
  std::string partner;               // Layer name of the norm or linear; empty if none.
  std::vector<std::string> readers;  // Includes `linears`.
  // Where the module that these linears open has its output: the attention, the MLP. A site of
  // BlockHooks; empty for a linear that ends its module and for the head.
  std::string module_output;
};

struct BlockWiring {
  std::vector<Step> steps;
  std::vector<std::string> residual_readers;  // Linears that read the stream through a norm.
  std::vector<std::string> residual_writers;  // Linears whose output is added to the stream.
};

struct Wiring {
  std::vector<BlockWiring> blocks;
  Step head;                           // Reads through final_norm, if there is one.
  std::vector<std::string> embedding;  // Tensors whose rows start the stream.
  // Why rotations of the residual stream cannot be folded into the weights; empty if they can
  // (after norms have been merged into their readers and LayerNorm turned into RMSNorm).
  std::string rotation_obstacle;
};

Wiring wiring_of(const ModelSpec& spec);
BlockWiring block_wiring(const ModelSpec& spec, size_t block);
// The step that holds the linear; Error if none does. `layer`: "blocks.3.mlp.down".
const Step& step_of(const Wiring& wiring, std::string_view layer);

// The row of step.partner that feeds input column `column`; for FoldKind::norm the same index.
size_t partner_row(const ModelSpec& spec, const Step& step, size_t column);

// Linears of the blocks that methods quantize, in execution order: all but routers and the head.
std::vector<std::string> quantizable_linears(const ModelSpec& spec);

// "blocks.3.attn.q" -> 3; empty for names outside blocks.
std::optional<size_t> block_index(std::string_view name);

}  // namespace fewbit
