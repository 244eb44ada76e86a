// d^t H d for many rows d at once: the error of a layer's outputs that a change d of its weights
// makes on the inputs that H was summed over. Searches evaluate it for every candidate, instead of
// running the layer over all tokens again.
#pragma once

#include <span>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/grid.h"

namespace fewbit {

class QuadraticForm {
 public:
  // H [n, n], symmetric. Kept in float; sums are double.
  explicit QuadraticForm(MatrixView<const double> h);

  size_t size() const { return size_; }
  // Writes d^t H d of the panel's rows to `errors`, which has kPanelRows entries. The panel has n
  // columns and must be aligned as grids' panels are. Single-threaded.
  void panel_errors(Panel<const float> difference, std::span<double> errors) const;
  // Sum over the rows of `difference` [rows, n]. The same for any number of threads.
  double total(MatrixView<const float> difference) const;

 private:
  size_t size_;
  std::vector<float> h_;
};

}  // namespace fewbit
