#include "fewbit/train/adamw.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

// Elements of one task: fixed, so that sums are the same for any number of threads.
constexpr size_t kChunk = size_t{1} << 16;

// A piece of one tensor.
struct Piece {
  size_t tensor, first, count;
};

template <class Sizes>
std::vector<Piece> cut(size_t tensors, Sizes size_of) {
  std::vector<Piece> pieces;
  for (size_t t = 0; t < tensors; ++t) {
    const size_t size = size_of(t);
    for (size_t first = 0; first < size; first += kChunk) {
      pieces.push_back({t, first, std::min(kChunk, size - first)});
    }
  }
  return pieces;
}

}  // namespace

TrainedTensor trained_tensor(std::string name, const at::Tensor& value) {
  return {std::move(name), value, at::zeros_like(value), at::zeros_like(value), value.dim() > 1};
}

double global_norm(const std::vector<at::Tensor>& gradients) {
  const auto pieces =
      cut(gradients.size(), [&](size_t t) { return static_cast<size_t>(gradients[t].numel()); });
  std::vector<double> sums(pieces.size());
  parallel_for(pieces.size(), [&](size_t i) {
    const float* g = gradients[pieces[i].tensor].data_ptr<float>() + pieces[i].first;
    // Independent lanes, so that the compiler may use vectors.
    constexpr size_t kLanes = 8;
    double lanes[kLanes] = {};
    size_t j = 0;
    for (; j + kLanes <= pieces[i].count; j += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += static_cast<double>(g[j + lane]) * g[j + lane];
      }
    }
    for (; j < pieces[i].count; ++j) lanes[0] += static_cast<double>(g[j]) * g[j];
    for (const double lane : lanes) sums[i] += lane;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

void adamw_step(std::vector<TrainedTensor>& tensors, const std::vector<at::Tensor>& gradients,
                double norm, double learning_rate, uint64_t step, const AdamWOptions& options) {
  require(tensors.size() == gradients.size(), "{} gradients for {} tensors", gradients.size(),
          tensors.size());
  constexpr double kClipEpsilon = 1e-6;
  const auto clip = static_cast<float>(
      options.clip_norm > 0 ? std::min(1.0, options.clip_norm / (norm + kClipEpsilon)) : 1.0);
  const double correction1 = 1 - std::pow(options.beta1, static_cast<double>(step + 1));
  const double correction2 = 1 - std::pow(options.beta2, static_cast<double>(step + 1));
  const auto beta1 = static_cast<float>(options.beta1), beta2 = static_cast<float>(options.beta2);
  const auto rate = static_cast<float>(learning_rate / correction1);
  const auto root_correction = static_cast<float>(1 / std::sqrt(correction2));
  const auto epsilon = static_cast<float>(options.epsilon);
  const auto pieces =
      cut(tensors.size(), [&](size_t t) { return static_cast<size_t>(tensors[t].value.numel()); });
  parallel_for(pieces.size(), [&](size_t i) {
    TrainedTensor& tensor = tensors[pieces[i].tensor];
    const auto keep =
        static_cast<float>(1 - (tensor.decay ? learning_rate * options.weight_decay : 0.0));
    float* value = tensor.value.data_ptr<float>() + pieces[i].first;
    float* m = tensor.first_moment.data_ptr<float>() + pieces[i].first;
    float* v = tensor.second_moment.data_ptr<float>() + pieces[i].first;
    const float* gradient = gradients[pieces[i].tensor].data_ptr<float>() + pieces[i].first;
    for (size_t j = 0; j < pieces[i].count; ++j) {
      const float g = gradient[j] * clip;
      m[j] = beta1 * m[j] + (1 - beta1) * g;
      v[j] = beta2 * v[j] + (1 - beta2) * g * g;
      value[j] = value[j] * keep - rate * m[j] / (std::sqrt(v[j]) * root_correction + epsilon);
    }
  });
}

}  // namespace fewbit
