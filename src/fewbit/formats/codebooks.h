// The scalar codebooks that have a name, and the 8-bit dynamic map of double quantisation.
//
// NF4: QLoRA (arXiv 2305.14314). FP4: bitsandbytes' E2M1, scaled to 1. AF4: arXiv 2306.06965.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

// Levels in the order of their codes; "nf4", "fp4" or "af4". Error for other names.
std::span<const float> named_codebook(std::string_view name);
std::span<const std::string> codebook_names();

// 256 ascending values in [-0.993, 1] with seven decades of magnitude; bitsandbytes stores the
// absolute maxima of blocks as indices into it.
std::span<const float> dynamic_map();

// Nearest level by counting the midpoints between sorted neighbours that are strictly below a
// value: a tie goes to the lower level. Equal levels keep their order (stable).
class CodebookSearch {
 public:
  explicit CodebookSearch(std::span<const float> levels);
  // Ascending, levels.size() - 1 of them.
  std::span<const float> midpoints() const { return midpoints_; }
  // Code of the sorted position.
  std::span<const uint8_t> code_of_position() const { return codes_; }
  uint8_t nearest(float value) const;

 private:
  std::vector<float> midpoints_;
  std::vector<uint8_t> codes_;
};

}  // namespace fewbit
