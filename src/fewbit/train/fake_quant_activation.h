// Fake quantization of activations [.., features].
//
//   absmax    x^ = clip(round(x k), -P - 1, P) / k, k = P / max(max|x|, 1e-5) of each token
//             (BitNet); P = 2^(bits-1) - 1
//   min-max   symmetric:  x^ = round(x k) / (k + 1e-6), k = P / (max|x| + 1e-6)
//             asymmetric: x^ = round((x - min) / d Q) / Q d + min, d = max - min + 1e-8,
//             Q = 2^bits - 1 (LLM-QAT); of each token or of the whole tensor
//   pact      x^ = round(clip(x, 0, a) Q / a) a / Q with a learned clip a
//   lsq       a learned step, signed or for values that are never negative
//
// Gradients: the identity for absmax and min-max; PACT passes it inside 0 < x < a and gives a the
// sum of G where x >= a; LSQ as for weights (fake_quant_function.h). PACT wants an L2 penalty on a
// of about the weight decay: the caller's.
//
// Sources: arXiv 2402.17764, 2305.17888, 1805.06085, 1902.08153.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "fewbit/train/fake_quant.h"

namespace fewbit {

class ActivationFakeQuant {
 public:
  virtual ~ActivationFakeQuant() = default;
  virtual at::Tensor forward(const at::Tensor& x) const = 0;
  virtual std::vector<QuantizerTensor> parameters() const { return {}; }
  // Sets learned parameters from a first batch; nothing for the others.
  virtual void start_from(const at::Tensor&) {}
  virtual std::string describe() const = 0;
};

// Integers and what they are multiplied with: x^ = codes * scale, one scale per token. Codes are
// whole numbers in the type of x, as an integer kernel takes them.
struct TokenCodes {
  at::Tensor codes;  // [.., features]
  at::Tensor scale;  // [.., 1]
};
TokenCodes absmax_codes(const at::Tensor& x, int bits);

std::unique_ptr<ActivationFakeQuant> make_absmax_activation(int bits);

struct MinMaxActivation {
  int bits = 8;
  bool symmetric = true;
  bool per_tensor = false;
  // No gradient where |x| >= 2, although nothing is clipped there: as in the published code.
  bool compatible = false;
};
std::unique_ptr<ActivationFakeQuant> make_min_max_activation(const MinMaxActivation& options);

// `clip`: where a starts.
std::unique_ptr<ActivationFakeQuant> make_pact_activation(int bits, double clip);
// The step starts from the first batch: forward() is an Error before start_from().
std::unique_ptr<ActivationFakeQuant> make_lsq_activation(int bits, bool is_signed);

}  // namespace fewbit
