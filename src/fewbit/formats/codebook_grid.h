// The scalar-codebook grid: w = level[code] * absmax of its block (NF4, FP4, AF4 or given levels).
//
// Fits absmax_b = max |w| of every block, and assigns the level nearest to
// clamp(w * (1 / max(absmax_b, 1e-38)), -1, 1); a tie goes to the lower level (bitsandbytes).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fewbit/formats/grid.h"

namespace fewbit {

struct CodebookGridOptions {
  std::string codebook = "nf4";  // of named_codebook(); empty: `levels`
  StoredFloats levels;           // 2^bits of them, largest magnitude 1
  size_t block_size = 64;
  CodebookPlane::Blocks blocks = CodebookPlane::Blocks::flattened;
  bool double_quantized = false;  // absmax as 8-bit codes; absmax_dtype is then not used
  Dtype absmax_dtype = Dtype::f32;
  // Codes are the nearest under the absmax as stored; or, as bitsandbytes has it, under the absmax
  // before it was rounded or double-quantised.
  bool assign_with_original = false;
};

class CodebookGrid final : public Grid {
 public:
  explicit CodebookGrid(CodebookGridOptions options);
  std::unique_ptr<GridEncoder> begin(size_t rows, size_t cols) const override;
  std::string describe() const override;

 private:
  CodebookGridOptions options_;
  std::vector<float> levels_;
};

}  // namespace fewbit
