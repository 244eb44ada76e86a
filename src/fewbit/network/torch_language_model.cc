#include "fewbit/network/torch_language_model.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"

namespace fewbit {
namespace {

class HiddenResult : public ForwardResult {
 public:
  // `parameters`: those of the head; tensors are shared.
  HiddenResult(std::shared_ptr<const Decoder> decoder, at::Tensor hidden, ParameterMap parameters)
      : decoder_(std::move(decoder)),
        hidden_(hidden.flatten(0, -2)),
        parameters_(std::move(parameters)) {}

  size_t rows() const override { return static_cast<size_t>(hidden_.size(0)); }

  void logits(size_t first, MatrixView<float> out) override {
    const size_t vocabulary = decoder_->spec().vocab_size;
    require(first + out.rows() <= rows() && out.cols() == vocabulary,
            "logits: rows {} to {} of {}, {} columns of {}", first, first + out.rows(), rows(),
            out.cols(), vocabulary);
    const at::NoGradGuard no_grad;
    const at::Tensor panel =
        hidden_.narrow(0, static_cast<int64_t>(first), static_cast<int64_t>(out.rows()));
    if (in_place(panel)) return products(panel, out);
    const at::Tensor values = decoder_->logits(panel, parameters_).to(at::kCPU).contiguous();
    const float* row = values.data_ptr<float>();
    for (size_t r = 0; r < out.rows(); ++r, row += vocabulary) {
      std::memcpy(out.row(r).data(), row, vocabulary * sizeof(float));
    }
  }

 private:
  // Whether the products can be written where they are wanted.
  bool in_place(const at::Tensor& panel) const {
    const auto plain = [](const at::Tensor& x) {
      return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
    };
    return plain(panel) && plain(decoder_->head_weight(parameters_)) &&
           ops::matmul_dtype() == ops::MatmulDtype::f32;
  }

  // Decoder::logits() with columns split over the threads, since a panel has few rows.
  void products(const at::Tensor& panel, MatrixView<float> out) const {
    constexpr size_t kTaskColumns = 1024;
    const auto width = static_cast<size_t>(panel.size(1));
    const float* rows = panel.data_ptr<float>();
    const float* weight = decoder_->head_weight(parameters_).data_ptr<float>();
    const ops::HeadOptions options = decoder_->head_options(parameters_);
    const float* bias = options.bias.defined() ? options.bias.data_ptr<float>() : nullptr;
    parallel_for_chunks(out.cols(), kTaskColumns, [&](size_t first, size_t last) {
      gemm({.m = out.rows(),
            .n = last - first,
            .k = width,
            .transpose_b = true,
            .stride_a = width,
            .stride_b = width,
            .stride_c = out.stride()},
           rows, weight + first * width, out.data() + first);
      for (size_t r = 0; r < out.rows() && (bias || options.softcap); ++r) {
        for (size_t v = first; v < last; ++v) {
          float z = out(r, v);
          if (bias) z += bias[v];
          if (options.softcap) {
            const auto cap = static_cast<float>(*options.softcap);
            z = cap * std::tanh(z / cap);
          }
          out(r, v) = z;
        }
      }
    });
  }

  std::shared_ptr<const Decoder> decoder_;
  at::Tensor hidden_;
  ParameterMap parameters_;
};

at::Tensor to_tensor(const ModelSpec& spec, MatrixView<const int32_t> tokens,
                     const at::Device& device) {
  at::Tensor ids = at::empty(
      {static_cast<int64_t>(tokens.rows()), static_cast<int64_t>(tokens.cols())}, at::kLong);
  int64_t* out = ids.data_ptr<int64_t>();
  for (size_t b = 0; b < tokens.rows(); ++b) {
    for (const int32_t token : tokens.row(b)) {
      require(token >= 0 && static_cast<size_t>(token) < spec.vocab_size,
              "token {} is outside the vocabulary of {}", token, spec.vocab_size);
      *out++ = token;
    }
  }
  return ids.to(device);
}

}  // namespace

TorchLanguageModel::TorchLanguageModel(std::shared_ptr<const Decoder> decoder, Residency residency)
    : decoder_(std::move(decoder)), residency_(residency) {
  if (residency_ == Residency::streamed) return;
  for (size_t block = 0; block < decoder_->blocks().size(); ++block) {
    parameters_.merge(read_block(block));
  }
}

TorchLanguageModel::TorchLanguageModel(std::shared_ptr<const Decoder> decoder,
                                       ParameterMap parameters)
    : decoder_(std::move(decoder)), parameters_(std::move(parameters)) {}

ParameterMap TorchLanguageModel::read_block(size_t block) const {
  std::vector<TensorSpec> missing;
  for (const TensorSpec& tensor : decoder_->blocks()[block].parameters) {
    if (!parameters_.contains(tensor.name)) missing.push_back(tensor);
  }
  return load_parameters(missing, decoder_->tensors(), decoder_->device(), Sharing::share);
}

std::unique_ptr<ForwardResult> TorchLanguageModel::forward(MatrixView<const int32_t> tokens) {
  require(tokens.size() > 0, "forward: there are no tokens");
  const at::NoGradGuard no_grad;
  BlockState state{to_tensor(decoder_->spec(), tokens, decoder_->device()), {}};
  const size_t head = decoder_->blocks().size() - 1;
  for (size_t block = 0; block < head; ++block) {
    state = residency_ == Residency::resident
                ? decoder_->run(block, state, parameters_, hooks_)
                : decoder_->run(block, state, read_block(block), hooks_);
  }
  ParameterMap head_parameters;
  if (residency_ == Residency::streamed) {
    head_parameters = read_block(head);
  } else {
    for (const TensorSpec& tensor : decoder_->blocks()[head].parameters) {
      const auto found = parameters_.find(tensor.name);
      if (found != parameters_.end()) head_parameters.insert(*found);
    }
  }
  at::Tensor hidden = decoder_->final_hidden(state.value, head_parameters, hooks_);
  return std::make_unique<HiddenResult>(decoder_, std::move(hidden), std::move(head_parameters));
}

}  // namespace fewbit
