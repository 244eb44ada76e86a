// Dense row-major float matrices: an owning one and a borrowed view. Shapes are [rows, cols];
// a weight matrix is [out, in], a panel of activations [tokens, features].
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace fewbit {

template <class T>
class MatrixView {
 public:
  MatrixView() = default;
  MatrixView(T* data, size_t rows, size_t cols) : MatrixView(data, rows, cols, cols) {}
  // `stride`: elements from one row to the next, at least `cols`.
  MatrixView(T* data, size_t rows, size_t cols, size_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
  // A view of floats is also a view of const floats.
  operator MatrixView<const T>() const { return {data_, rows_, cols_, stride_}; }

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t stride() const { return stride_; }
  size_t size() const { return rows_ * cols_; }
  T* data() const { return data_; }
  std::span<T> row(size_t r) const { return {data_ + r * stride_, cols_}; }
  T& operator()(size_t r, size_t c) const { return data_[r * stride_ + c]; }
  // Rows [first, first + count) of all columns.
  MatrixView rows_from(size_t first, size_t count) const {
    return {data_ + first * stride_, count, cols_, stride_};
  }
  // Columns [first, first + count) of all rows.
  MatrixView cols_from(size_t first, size_t count) const {
    return {data_ + first, rows_, count, stride_};
  }

 private:
  T* data_ = nullptr;
  size_t rows_ = 0, cols_ = 0, stride_ = 0;
};

template <class T>
class BasicMatrix {
 public:
  BasicMatrix() = default;
  BasicMatrix(size_t rows, size_t cols, T value = T{})
      : rows_(rows), cols_(cols), values_(rows * cols, value) {}
  // Takes `values` of rows * cols elements.
  BasicMatrix(size_t rows, size_t cols, std::vector<T> values)
      : rows_(rows), cols_(cols), values_(std::move(values)) {}

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }
  T* data() { return values_.data(); }
  const T* data() const { return values_.data(); }
  std::span<T> row(size_t r) { return {values_.data() + r * cols_, cols_}; }
  std::span<const T> row(size_t r) const { return {values_.data() + r * cols_, cols_}; }
  T& operator()(size_t r, size_t c) { return values_[r * cols_ + c]; }
  const T& operator()(size_t r, size_t c) const { return values_[r * cols_ + c]; }
  std::span<T> values() { return values_; }
  std::span<const T> values() const { return values_; }
  MatrixView<T> view() { return {values_.data(), rows_, cols_}; }
  MatrixView<const T> view() const { return {values_.data(), rows_, cols_}; }
  friend bool operator==(const BasicMatrix&, const BasicMatrix&) = default;

 private:
  size_t rows_ = 0, cols_ = 0;
  std::vector<T> values_;
};

using Matrix = BasicMatrix<float>;
using DoubleMatrix = BasicMatrix<double>;

}  // namespace fewbit
