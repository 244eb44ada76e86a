// Pass: something done to a model. A recipe is an ordered list of passes; block passes that follow
// each other share one walk (walk.h), which hands every block to them in turn.
//
// Kinds: transform (function-preserving: rotate, scale, reorder), allocate (bits per layer into the
// LayerPlan), quantize (choose codes for a layer), tune (learn parameters of a block).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/options.h"
#include "fewbit/calibrate/layer_stats.h"
#include "fewbit/calibrate/recipe.h"
#include "fewbit/formats/grid.h"
#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/model/layer_selection.h"
#include "fewbit/network/block_model.h"

namespace fewbit {

enum class PassKind { transform, allocate, quantize, tune };
enum class PassScope { block, model };

// What an allocation decided for one layer; absent fields leave the pass's own options.
struct LayerSettings {
  std::optional<int> bits;
  std::optional<size_t> group_size;
};
// By canonical layer name ("blocks.3.mlp.down"). Written by allocate passes, read by later ones.
using LayerPlan = std::map<std::string, LayerSettings, std::less<>>;

// What one layer's quantization came to.
struct LayerReport {
  std::string layer;
  std::string method;
  double bits_per_weight = 0;
  double relative_error = 0;        // ||W - Q||^2 / ||W||^2
  std::optional<double> objective;  // tr((W - Q) H (W - Q)^T) with the damped H, if there is one
  double seconds = 0;
  std::vector<std::string> warnings;
};

// What a transform or tuning of some layers came to.
struct TransformReport {
  std::string where;  // A site, a layer or a block.
  std::string method;
  std::string detail;  // "ratio 0.45 of 20", for people.
  // What was made small, without and with the transform; absent if nothing was measured.
  std::optional<double> objective_before, objective_after;
  std::vector<double> losses;  // Of all candidates of a search, infinite where given up.
  double seconds = 0;
  std::vector<std::string> warnings;
};

// One block under quantization. Passes change `parameters` (what the next run computes with) and
// put codes into `quantized`; both are keyed by canonical names, `quantized` by layer. A parameter
// is replaced by a new tensor, never written to: others may hold it.
class BlockContext {
 public:
  virtual ~BlockContext() = default;

  virtual const ModelSpec& spec() const = 0;
  virtual const BlockInfo& info() const = 0;

  ParameterMap parameters;
  std::map<std::string, QuantizedMatrix, std::less<>> quantized;
  // Weights as they were before a pass lost something of them: those of quantized or clipped
  // layers. Transforms that keep the function change them along with `parameters`.
  ParameterMap exact;
  std::vector<LayerReport> reports;
  std::vector<TransformReport> transforms;
  const LayerPlan* plan = nullptr;

  // `parameters` with `exact` in their place: what the full-precision network computes with.
  ParameterMap exact_parameters() const;

  // Statistics of the inputs of `steps` under the current parameters, from one partial run of the
  // block over the calibration sequences (and one of the exact stream, if the request needs it).
  // Error if there is no calibration data; a step whose input was never reached has 0 tokens.
  virtual std::vector<LayerStats> collect(const std::vector<const Step*>& steps,
                                          StatsRequest request) = 0;

  // The calibration sequences by batches, for passes that compare outputs: how many batches there
  // are, their tokens, and a run of one through the block under parameters of the pass's choice.
  virtual size_t batches() const = 0;
  virtual size_t batch_tokens(size_t batch) const = 0;
  virtual at::Tensor run(size_t batch, const ParameterMap& with, const BlockHooks& hooks) const = 0;
  // The same on the exact stream: the batch as it comes out of the blocks before in full precision.
  // Error unless a pass of the walk needs that stream.
  virtual at::Tensor run_exact(size_t batch, const ParameterMap& with,
                               const BlockHooks& hooks) const = 0;
  // What run() runs on, and a run on any such state.
  virtual const BlockState& input(size_t batch) const = 0;
  virtual at::Tensor run_state(const BlockState& state, const ParameterMap& with,
                               const BlockHooks& hooks) const = 0;
};

class Pass {
 public:
  virtual ~Pass() = default;
  virtual std::string_view name() const = 0;
  virtual PassKind kind() const = 0;
  virtual PassScope scope() const { return PassScope::block; }
  // True if apply() calls collect().
  virtual bool needs_calibration() const = 0;
  // True if apply() compares with the full-precision network's run of the same tokens; the walk
  // then carries its hidden states along too.
  virtual bool needs_exact_stream() const { return false; }
  // True if apply() may change tensors that get no codes (norms, biases, later layers).
  virtual bool changes_tensors() const {
    return kind() == PassKind::transform || kind() == PassKind::tune;
  }
  // Throws an Error if this pass cannot run on such a model; called before weights are read.
  virtual void check(const ModelSpec& spec) const = 0;
  virtual void apply(BlockContext& block) const = 0;
};

// The grid that a pass quantizes on: `format=` of a recipe and the format's own options, which an
// allocation may override layer by layer. Passes that choose codes own no grid.
class GridChoice {
 public:
  GridChoice() = default;
  // Errors as grid_from_options().
  GridChoice(std::string format, std::map<std::string, std::string> options);
  std::unique_ptr<Grid> grid(const LayerSettings& settings = {}) const;
  const std::string& format() const { return format_; }

 private:
  std::string format_;
  std::map<std::string, std::string> options_;
};

// A method as recipes name it: what it is called, what it takes, how to make it.
struct MethodInfo {
  std::string name;
  PassKind kind = PassKind::quantize;
  std::string summary;  // One line.
  std::string source;   // Paper.
  std::vector<OptionSpec> options;
  // The format if the recipe names none; empty: the method takes no format.
  std::string default_format;
  // False: always default_format, and a recipe may set only its options.
  bool choose_format = true;
  // True: the pass looks ahead to what quantization will do, and what the recipe leaves out of its
  // format is taken from the next pass that quantizes.
  bool grid_of_next = false;
  std::function<std::unique_ptr<Pass>(const OptionValues&, GridChoice)> make;
};

// Options of every method besides its own: `layers`, and `format` where it can be chosen.
std::vector<OptionSpec> all_options(const MethodInfo& method);

// Builds the passes of a recipe from a table of methods and checks each against `spec`. Errors name
// the pass and the key, and list what is allowed.
std::vector<std::unique_ptr<Pass>> build_passes(const Recipe& recipe,
                                                std::span<const MethodInfo> methods,
                                                const ModelSpec& spec);

}  // namespace fewbit
