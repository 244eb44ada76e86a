// Panel: rows of activations while a decoder runs, [tokens, features] of float32. A value: copies
// are deep, and a new one is not cleared.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

#include "fewbit/base/matrix.h"

namespace fewbit {

class Panel {
 public:
  Panel() = default;
  Panel(size_t rows, size_t cols)
      : rows_(rows), cols_(cols), values_(new float[std::max<size_t>(1, rows * cols)]) {}
  Panel(const Panel& other) : Panel(other.rows_, other.cols_) {
    std::copy_n(other.values_.get(), rows_ * cols_, values_.get());
  }
  Panel& operator=(const Panel& other) { return *this = Panel(other); }
  Panel(Panel&&) = default;
  Panel& operator=(Panel&&) = default;

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t size() const { return rows_ * cols_; }
  std::span<float> row(size_t r) { return {values_.get() + r * cols_, cols_}; }
  std::span<const float> row(size_t r) const { return {values_.get() + r * cols_, cols_}; }
  MatrixView<float> view() { return {values_.get(), rows_, cols_}; }
  MatrixView<const float> view() const { return {values_.get(), rows_, cols_}; }

 private:
  size_t rows_ = 0, cols_ = 0;
  std::unique_ptr<float[]> values_;
};

}  // namespace fewbit
