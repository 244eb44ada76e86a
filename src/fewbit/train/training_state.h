// What a run changes: weights, what quantizers learn, moments, and how many updates there were.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fewbit/model/tensor_source.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/network_quantizers.h"
#include "fewbit/train/spike_guard.h"

namespace fewbit {

class TrainingState {
 public:
  // Weights as they are in `start`, in the order of model_tensors(). Without moments nothing is
  // trained by gradients.
  TrainingState(const ModelSpec& spec, const TensorSource& start, bool with_moments = true);

  // From now on the plan's weights are under quantizers. The moments start again from zero.
  void start_quantizers(const QuantizerOptions& options);
  // The part of it that comes last: freezes codes if that is asked for.
  void finish_quantizers(const QuantizerOptions& options);
  // Keeps the weights as they are now, to be saved and loaded with the rest.
  void keep_teacher();
  bool quantized() const { return !quantizers.empty(); }

  // `config_hash`: of the run; a state of another one is an Error. A state that was saved with
  // quantizers needs `options` to make them before their values are read.
  void save(const std::filesystem::path& path, const std::string& config_hash) const;
  void load(const std::filesystem::path& path, const std::string& config_hash,
            const QuantizerOptions& options);

  // The model as it is now: latent weights where there are quantizers, and the network's weights
  // where those have no packed form. A copy.
  std::shared_ptr<TensorSource> snapshot() const;

  ModelSpec spec;
  std::vector<TrainedTensor> tensors;
  NetworkQuantizers quantizers;
  SpikeGuard spikes;
  ParameterMap teacher;  // Empty unless kept.
  uint64_t step = 0;

 private:
  bool with_moments_;

  struct Part {
    std::string name;
    at::Tensor value;
  };
  std::vector<Part> parts() const;
};

}  // namespace fewbit
