#include "fewbit/calibrate/walk.h"

#include <ATen/Parallel.h>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/progress.h"

namespace fewbit {
namespace {

class WalkContext : public BlockContext {
 public:
  WalkContext(const BlockModel& model, const ModelSpec& spec, size_t block,
              const std::vector<BlockState>& inputs, const std::vector<BlockState>& exact_inputs)
      : model_(model), spec_(spec), block_(block), inputs_(inputs), exact_inputs_(exact_inputs) {
    parameters = model.load_parameters(block);
  }

  const ModelSpec& spec() const override { return spec_; }
  const BlockInfo& info() const override { return model_.blocks()[block_]; }

  std::vector<LayerStats> collect(const std::vector<const Step*>& steps,
                                  StatsRequest request) override {
    require(!inputs_.empty(), "{}: calibration data are needed, and there are none", info().name);
    std::vector<LayerStats> stats;
    std::map<std::string, size_t, std::less<>> index;
    for (const Step* step : steps) {
      index[step->site] = stats.size();
      stats.emplace_back(step->in_features, request);
    }
    std::map<std::string, at::Tensor, std::less<>> exact_values;
    BlockHooks hooks, exact_hooks;
    hooks.at_site = [&](const std::string& site, const at::Tensor& value) {
      const auto found = index.find(site);
      if (found == index.end()) return value;
      if (request.drift) {
        stats[found->second].add(value, exact_values.at(site), site);
      } else {
        stats[found->second].add(value, site);
      }
      return value;
    };
    exact_hooks.at_site = [&](const std::string& site, const at::Tensor& value) {
      if (index.contains(site)) exact_values[site] = value;
      return value;
    };
    // Nothing behind the last wanted site needs to run.
    for (const std::string& site : info().sites) {
      if (index.contains(site)) hooks.stop_at = exact_hooks.stop_at = site;
    }
    const ParameterMap exact_map = request.drift ? exact_parameters() : ParameterMap();
    for (size_t b = 0; b < inputs_.size(); ++b) {
      if (request.drift) run_exact(b, exact_map, exact_hooks);
      run(b, parameters, hooks);
    }
    return stats;
  }

  size_t batches() const override { return inputs_.size(); }
  size_t batch_tokens(size_t batch) const override {
    // Token ids before the embedding, hidden states behind it: [sequences, length, ..].
    const at::Tensor& value = inputs_.at(batch).value;
    return static_cast<size_t>(value.size(0) * value.size(1));
  }
  at::Tensor run(size_t batch, const ParameterMap& with, const BlockHooks& hooks) const override {
    return run_state(inputs_.at(batch), with, hooks);
  }
  at::Tensor run_exact(size_t batch, const ParameterMap& with,
                       const BlockHooks& hooks) const override {
    require(!exact_inputs_.empty(), "{}: no pass has asked for the full-precision stream",
            info().name);
    return run_state(exact_inputs_.at(batch), with, hooks);
  }
  const BlockState& input(size_t batch) const override { return inputs_.at(batch); }
  at::Tensor run_state(const BlockState& state, const ParameterMap& with,
                       const BlockHooks& hooks) const override {
    throw_if_interrupted();
    return model_.run(block_, state, with, hooks).value;
  }

 private:
  const BlockModel& model_;
  const ModelSpec& spec_;
  size_t block_;
  const std::vector<BlockState>& inputs_;
  const std::vector<BlockState>& exact_inputs_;
};

void advance(const BlockModel& model, size_t block, const ParameterMap& parameters,
             std::vector<BlockState>& states) {
  for (BlockState& state : states) {
    throw_if_interrupted();
    state = model.run(block, state, parameters);
  }
}

std::vector<BlockState> split_batches(const CalibrationSet& calibration) {
  std::vector<BlockState> states;
  if (!calibration.tokens.defined()) return states;
  const auto batch = static_cast<int64_t>(std::max<size_t>(1, calibration.batch));
  for (const at::Tensor& part : calibration.tokens.split(batch)) states.push_back({part, {}});
  return states;
}

}  // namespace

void walk_blocks(const BlockModel& model, const ModelSpec& spec,
                 std::span<const std::unique_ptr<Pass>> passes, const CalibrationSet& calibration,
                 const WalkOptions& options, const std::function<void(WalkedBlock&)>& done) {
  at::NoGradGuard no_grad;
  bool calibrated = false, exact = false;
  for (const auto& pass : passes) {
    if (!pass->needs_calibration()) continue;
    calibrated = true;
    exact = exact || pass->needs_exact_stream();
    require(calibration.tokens.defined(), "{} needs calibration data, and there are none",
            pass->name());
  }
  // Without a pass that asks for statistics no activation is ever computed.
  std::vector<BlockState> states =
      calibrated ? split_batches(calibration) : std::vector<BlockState>{};
  std::vector<BlockState> exact_states = exact ? states : std::vector<BlockState>{};
  const size_t blocks = model.blocks().size();
  Progress progress("quantize", blocks, "blocks",
                    options.show_progress ? Progress::Mode::automatic : Progress::Mode::off);
  for (size_t b = 0; b < blocks; ++b) {
    throw_if_interrupted();
    WalkContext context(model, spec, b, states, exact_states);
    context.plan = &options.plan;
    for (const auto& pass : passes) {
      with_context(context.info().name, [&] { pass->apply(context); });
    }
    if (b + 1 < blocks) {
      advance(model, b, context.parameters, states);
      if (exact) advance(model, b, context.exact_parameters(), exact_states);
    }
    WalkedBlock walked{context.info(), context.parameters, context.quantized, context.reports,
                       context.transforms};
    done(walked);
    progress.advance(1, context.info().name);
  }
}

}  // namespace fewbit
