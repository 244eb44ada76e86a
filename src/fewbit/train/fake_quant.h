// FakeQuant: the trainable twin of a QuantizedMatrix.
//
// It turns a latent weight W [out, in] into the dense weight W^ that its low-bit form decodes to,
// with a gradient for W and for what the quantizer itself learns, and bakes the trained state into
// that form. A quantizer is a grid of levels, a rule for its parameters (learned, recomputed from W
// at every step, or only the scales trained under frozen codes) and a rule for gradients (identity,
// windowed, LSQ, soft rounding); quantizer_registry.h lists the ones with a name.
//
// What was trained is what is stored: scales are rounded to their stored type before codes are
// chosen, in training too, so that bake(W).dequantize() equals forward(W) bit for bit.
//
// Calls for different objects may run at the same time.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/train/quantizer_layout.h"

namespace fewbit {

// A tensor of a quantizer's state. Loading a checkpoint copies into it in place.
struct QuantizerTensor {
  std::string name;  // "scale", "zero_point", "codes"; unique within the quantizer
  at::Tensor tensor;
};

class FakeQuant {
 public:
  virtual ~FakeQuant() = default;

  // W^ in the type of `weight` (float32 or float64).
  virtual at::Tensor forward(const at::Tensor& weight) const = 0;
  // Leaves to train beside the weight: no weight decay, their own learning rate.
  virtual std::vector<QuantizerTensor> parameters() const { return {}; }
  // State that is not trained but belongs into a checkpoint.
  virtual std::vector<QuantizerTensor> buffers() const { return {}; }
  // False if forward() ignores the values of its argument (frozen codes).
  virtual bool trains_weight() const { return true; }

  // Codes and scales of `weight` as they are stored. Error if they are more than one plane.
  virtual QuantizedTensor quantize(const at::Tensor& weight) const = 0;
  // Codes alone, uint8 [out, in], for telemetry.
  virtual at::Tensor codes(const at::Tensor& weight) const { return quantize(weight).codes; }
  // False if no packed form can hold it: bake() is an Error, checkpoints keep the dense weights.
  virtual bool packs() const { return true; }
  // The packed form; weights must be float32 for it to equal forward().
  virtual QuantizedMatrix bake(const at::Tensor& weight) const { return quantize(weight).pack(); }
  // "lsq b4 row, learned f16 scale", for reports.
  virtual std::string describe() const = 0;
};

// A trainable copy of `value`.
at::Tensor make_parameter(const at::Tensor& value);

// The codes and zero points of `weight` under `quantizer`, fixed from now on; only the scales are
// trained, with dL/ds = sum of G level (EfficientQAT's end-to-end phase).
std::unique_ptr<FakeQuant> freeze_codes(const FakeQuant& quantizer, const at::Tensor& weight);

}  // namespace fewbit
