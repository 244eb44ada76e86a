// Help for the tests of fake quantizers: fixture tensors, comparisons, gradients.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/io/safetensors.h"

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

inline at::Tensor leaf(const at::Tensor& value) {
  return value.detach().clone().set_requires_grad(true);
}

inline at::Tensor tensor_of(const Matrix& matrix) {
  return at::from_blob(const_cast<float*>(matrix.data()),
                       {static_cast<int64_t>(matrix.rows()), static_cast<int64_t>(matrix.cols())},
                       at::kFloat)
      .clone();
}

}  // namespace fewbit::testing
