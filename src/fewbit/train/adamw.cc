#include "fewbit/train/adamw.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/row_kernels.h"
#include "fewbit/train/adamw_kernels.h"

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

// Small tensors go together into one task, so that tiny models do not pay for waking threads.
// `body` is called for every piece.
template <class Body>
void over_pieces(const std::vector<Piece>& pieces, Body&& body) {
  std::vector<size_t> starts;
  size_t elements = kChunk;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (elements + pieces[i].count > kChunk) {
      starts.push_back(i);
      elements = 0;
    }
    elements += pieces[i].count;
  }
  starts.push_back(pieces.size());
  parallel_for(starts.size() - 1, [&](size_t task) {
    for (size_t i = starts[task]; i < starts[task + 1]; ++i) body(i);
  });
}

size_t elements_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<size_t>(tensor.numel()) : 0;
}

}  // namespace

TrainedTensor trained_tensor(std::string name, const at::Tensor& value) {
  TrainedTensor tensor;
  tensor.name = std::move(name);
  tensor.value = value;
  tensor.first_moment = at::zeros_like(value);
  tensor.second_moment = at::zeros_like(value);
  tensor.decay = value.dim() > 1;
  return tensor;
}

void stop_training(TrainedTensor& tensor) {
  tensor.trained = false;
  tensor.first_moment = tensor.second_moment = at::Tensor();
}

double global_norm(const std::vector<at::Tensor>& gradients) {
  std::vector<at::Tensor> one = gradients;
  return reduce_gradients(std::span(&one, 1));
}

double reduce_gradients(std::span<std::vector<at::Tensor>> shards) {
  require(!shards.empty(), "no shard of gradients");
  for (const auto& shard : shards) {
    require(shard.size() == shards[0].size(), "shards of {} and {} gradients", shards[0].size(),
            shard.size());
  }
  const auto pieces = cut(shards[0].size(), [&](size_t t) { return elements_of(shards[0][t]); });
  std::vector<double> sums(pieces.size());
  over_pieces(pieces, [&](size_t i) {
    const Piece& piece = pieces[i];
    float* total = shards[0][piece.tensor].data_ptr<float>() + piece.first;
    std::vector<const float*> parts;
    for (const auto& shard : shards.subspan(1)) {
      parts.push_back(shard[piece.tensor].data_ptr<float>() + piece.first);
    }
    sums[i] = kernels::add_parts(total, parts, piece.count);
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
  const double clip =
      options.clip_norm > 0 ? std::min(1.0, options.clip_norm / (norm + kClipEpsilon)) : 1.0;
  const double updates = static_cast<double>(step + 1);
  const double correction1 = 1 - std::pow(options.beta1, updates);
  const double correction2 = 1 - std::pow(options.beta2, updates);
  const auto pieces = cut(tensors.size(), [&](size_t t) {
    return tensors[t].trained ? elements_of(tensors[t].value) : 0;
  });
  over_pieces(pieces, [&](size_t i) {
    const Piece& piece = pieces[i];
    TrainedTensor& tensor = tensors[piece.tensor];
    const double rate = learning_rate * tensor.rate_factor;
    const kernels::AdamWConstants constants{
        .clip = static_cast<float>(clip),
        .beta1 = static_cast<float>(options.beta1),
        .beta2 = static_cast<float>(options.beta2),
        .keep = static_cast<float>(1 - (tensor.decay ? rate * options.weight_decay : 0.0)),
        .rate = static_cast<float>(rate / correction1),
        .root_correction = static_cast<float>(1 / std::sqrt(correction2)),
        .epsilon = static_cast<float>(options.epsilon)};
    float* value = tensor.value.data_ptr<float>() + piece.first;
    kernels::adamw(constants, gradients[piece.tensor].data_ptr<float>() + piece.first, piece.count,
                   value, tensor.first_moment.data_ptr<float>() + piece.first,
                   tensor.second_moment.data_ptr<float>() + piece.first);
    if (tensor.bf16_copy.defined()) {
      kernels::to_bf16(
          value, piece.count,
          reinterpret_cast<Bf16*>(tensor.bf16_copy.data_ptr<at::BFloat16>()) + piece.first);
    }
  });
}

}  // namespace fewbit
