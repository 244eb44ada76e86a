#include "fewbit/train/zeroth_order.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"

namespace fewbit {
namespace {

// Elements of a direction that come from one stream of random numbers.
constexpr size_t kChunk = size_t{1} << 14;

bool moves(const ZerothOrder& options, const std::string& tensor) {
  return options.trained.contains(tensor.substr(0, tensor.rfind('.')));
}

class Bf16Products {
 public:
  explicit Bf16Products(ops::MatmulDtype dtype) : before_(ops::matmul_dtype()) {
    ops::set_matmul_dtype(dtype);
  }
  ~Bf16Products() { ops::set_matmul_dtype(before_); }
  Bf16Products(const Bf16Products&) = delete;
  Bf16Products& operator=(const Bf16Products&) = delete;

 private:
  ops::MatmulDtype before_;
};

}  // namespace

void add_direction(at::Tensor& value, double factor, uint64_t seed, uint64_t step, size_t direction,
                   const std::string& tensor) {
  float* values = value.data_ptr<float>();
  const auto count = static_cast<size_t>(value.numel());
  const auto scale = static_cast<float>(factor);
  parallel_for_chunks(count, kChunk, [&](size_t first, size_t last) {
    RandomStream random(
        seed, fmt::format("zeroth order {} {} {} {}", step, direction, tensor, first / kChunk));
    for (size_t i = first; i < last; ++i) {
      values[i] += scale * static_cast<float>(random.normal());
    }
  });
}

ZerothOrderStep::ZerothOrderStep(const Decoder& decoder, const ZerothOrder& options,
                                 ops::MatmulDtype dtype, std::vector<TrainedTensor>& tensors,
                                 const NetworkQuantizers* quantizers)
    : decoder_(decoder),
      options_(options),
      dtype_(dtype),
      tensors_(tensors),
      quantizers_(quantizers),
      moved_(tensors.size()) {
  for (const TensorSpec& tensor : model_tensors(decoder.spec())) {
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const TrainedTensor& t) { return t.name == tensor.name; });
    require(found != tensors.end(), "{}: the model has no such tensor", tensor.name);
    const auto place = static_cast<size_t>(found - tensors.begin());
    place_[tensor.name] = place;
    moved_[place] = moves(options, tensor.name);
  }
  require(std::find(moved_.begin(), moved_.end(), true) != moved_.end(),
          "'{}' selects no tensor of this model", options.trained.text());
  if (quantizers_) {
    for (const QuantizedLayer& layer : quantizers_->layers) {
      layer_[layer.name + ".weight"] = &layer;
    }
  }
}

ParameterMap ZerothOrderStep::block_parameters(size_t block, double factor, uint64_t seed,
                                               uint64_t step, size_t direction) const {
  ParameterMap parameters;
  for (const TensorSpec& spec : decoder_.blocks()[block].parameters) {
    const size_t place = place_.at(spec.name);
    at::Tensor value = tensors_[place].value.detach();
    if (moved_[place] && factor != 0) {
      value = value.clone();
      add_direction(value, factor, seed, step, direction, spec.name);
    }
    const auto layer = layer_.find(spec.name);
    if (layer != layer_.end()) value = layer->second->quantizer->forward(value);
    parameters[spec.name] = value;
  }
  return parameters;
}

std::pair<double, double> ZerothOrderStep::losses(const TrainingBatch& batch, uint64_t seed,
                                                  uint64_t step, size_t direction) {
  BlockState plus{batch.inputs, {}}, minus{batch.inputs, {}};
  const BlockHooks hooks = quantizers_ ? quantizers_->sites.hooks() : BlockHooks{};
  const size_t last = decoder_.blocks().size() - 1;
  differing_ = compared_ = 0;
  for (size_t block = 0; block <= last; ++block) {
    const ParameterMap up = block_parameters(block, options_.epsilon, seed, step, direction);
    const ParameterMap down = block_parameters(block, -options_.epsilon, seed, step, direction);
    for (const auto& [name, value] : up) {
      if (!layer_.contains(name)) continue;
      differing_ += static_cast<uint64_t>(value.ne(down.at(name)).sum().item<int64_t>());
      compared_ += static_cast<uint64_t>(value.numel());
    }
    if (block < last) {
      plus = decoder_.run(block, plus, up, hooks);
      minus = decoder_.run(block, minus, down, hooks);
      continue;
    }
    const auto loss = [&](const BlockState& state, const ParameterMap& parameters) {
      const at::Tensor hidden = decoder_.final_hidden(state.value, parameters, hooks);
      // Each sequence's sum is rounded to float32: small ones keep the difference exact enough.
      double sum = 0;
      for (int64_t s = 0; s < hidden.size(0); ++s) {
        sum += decoder_.loss_sum(hidden[s], batch.targets[s], parameters).item<double>();
      }
      return sum / static_cast<double>(batch.targets.numel());
    };
    return {loss(plus, up), loss(minus, down)};
  }
  throw std::logic_error("a decoder without blocks");
}

double ZerothOrderStep::measure(const TrainingBatch& batch, uint64_t seed, uint64_t step) {
  const at::NoGradGuard no_gradient;
  const SerialLibraries serial;
  const Bf16Products products(dtype_);
  slopes_.clear();
  double total = 0;
  for (size_t d = 0; d < options_.directions; ++d) {
    const auto [plus, minus] = losses(batch, seed, step, d);
    slopes_.push_back((plus - minus) / (2 * options_.epsilon));
    total += (plus + minus) / 2;
  }
  return total / static_cast<double>(options_.directions);
}

double ZerothOrderStep::differing_codes() const {
  return compared_ == 0 ? 0 : static_cast<double>(differing_) / static_cast<double>(compared_);
}

void ZerothOrderStep::apply(double rate, uint64_t seed, uint64_t step) {
  replay_direction(tensors_, options_, slopes_, rate, seed, step);
}

void replay_direction(std::vector<TrainedTensor>& tensors, const ZerothOrder& options,
                      const std::vector<double>& slopes, double rate, uint64_t seed,
                      uint64_t step) {
  for (TrainedTensor& tensor : tensors) {
    if (!moves(options, tensor.name) || is_quantizer_parameter(tensor.name)) continue;
    at::Tensor value = tensor.value.detach();
    for (size_t d = 0; d < slopes.size(); ++d) {
      add_direction(value, -rate * slopes[d] / static_cast<double>(slopes.size()), seed, step, d,
                    tensor.name);
    }
  }
}

}  // namespace fewbit
