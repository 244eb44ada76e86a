// Help for the tests of fake quantizers: fixture tensors, comparisons, gradients.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/train/adamw.h"

namespace fewbit::testing {

// Tensor of a file: float32 for floating types, int64 for integers.
inline at::Tensor fixture_tensor(const SafetensorsFile& file, std::string_view name) {
  const TensorView& view = file.tensor(name);
  std::vector<int64_t> shape(view.shape.begin(), view.shape.end());
  if (view.dtype == Dtype::f32 || view.dtype == Dtype::f64) {
    std::vector<float> values = to_floats(view);
    return at::from_blob(values.data(), shape, at::kFloat).clone();
  }
  std::vector<int64_t> values = to_integers(view);
  return at::from_blob(values.data(), shape, at::kLong).clone();
}

inline double metadata_number(const SafetensorsFile& file, std::string_view key) {
  return std::stod(file.metadata(key));
}
inline int metadata_integer(const SafetensorsFile& file, std::string_view key) {
  return std::stoi(file.metadata(key));
}
inline bool metadata_true(const SafetensorsFile& file, std::string_view key) {
  return file.metadata(key) == "True";
}
// Words separated by commas.
inline std::vector<std::string> metadata_list(const SafetensorsFile& file, std::string_view key) {
  std::vector<std::string> words = {""};
  for (const char c : file.metadata(key)) {
    c == ',' ? words.emplace_back() : words.back() += c;
  }
  return words;
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.numel(), b.numel());
  return (a.detach().to(at::kDouble).reshape(-1) - b.detach().to(at::kDouble).reshape(-1))
      .abs()
      .max()
      .item<double>();
}
// Largest difference relative to the largest magnitude of `expected`.
inline double relative_difference(const at::Tensor& actual, const at::Tensor& expected) {
  const double size = expected.detach().to(at::kDouble).abs().max().item<double>();
  return largest_difference(actual, expected) / (size > 0 ? size : 1);
}
inline bool same_values(const at::Tensor& a, const at::Tensor& b) {
  return largest_difference(a, b) == 0;
}

// The quantizer's state tensor of that name.
template <class Quantizer>
at::Tensor parameter(const Quantizer& quantizer, std::string_view name) {
  for (const auto& [key, tensor] : quantizer.parameters()) {
    if (key == name) return tensor;
  }
  throw std::logic_error("no parameter " + std::string(name));
}
inline void set_values(at::Tensor tensor, const at::Tensor& values) {
  const at::NoGradGuard no_gradient;
  tensor.copy_(values.reshape(tensor.sizes()));
}

inline at::Tensor leaf(const at::Tensor& value) {
  return value.detach().clone().set_requires_grad(true);
}

// Leaves under the product's optimizer.
class Training {
 public:
  explicit Training(const AdamWOptions& options) : options_(options) {}
  void add(const at::Tensor& leaf, bool decay, double rate_factor = 1) {
    leaves_.push_back(leaf);
    // The values share the memory of the leaf.
    tensors_.push_back(trained_tensor(std::to_string(leaves_.size()), leaf.detach()));
    tensors_.back().decay = decay;
    tensors_.back().rate_factor = rate_factor;
  }
  const at::Tensor& leaf(size_t i) const { return leaves_[i]; }
  // One update with the gradients that the leaves hold, which it clears; returns their norm.
  double step(double learning_rate) {
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& leaf : leaves_) gradients.push_back(leaf.grad());
    const double norm = global_norm(gradients);
    adamw_step(tensors_, gradients, norm, learning_rate, count_++, options_);
    for (at::Tensor& gradient : gradients) gradient.zero_();
    return norm;
  }

 private:
  AdamWOptions options_;
  std::vector<at::Tensor> leaves_;
  std::vector<TrainedTensor> tensors_;
  uint64_t count_ = 0;
};

inline at::Tensor tensor_of(const Matrix& matrix) {
  return at::from_blob(const_cast<float*>(matrix.data()),
                       {static_cast<int64_t>(matrix.rows()), static_cast<int64_t>(matrix.cols())},
                       at::kFloat)
      .clone();
}

}  // namespace fewbit::testing
