// One place at which a law can be asked: model size, tokens, bit width and whatever else a form
// reads. A variable that is not known is NaN.
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

namespace fewbit {

// Every quantity that a form may depend on. All are positive numbers.
enum class LawVariable {
  params,           // N, non-embedding parameters
  tokens,           // D, training tokens seen
  bits,             // P, bit width of the weights after quantization
  group_size,       // G, weights that share one scale
  lr_ratio,         // learning rate at the checkpoint / peak learning rate
  train_bits,       // weight bits during training
  activation_bits,  // activation bits during training
  cache_bits,       // key-value bits during training
  exponent_bits,    // of a floating-point training format
  mantissa_bits,
  gmse  // mean squared error of the number format on N(0,1) data
};
inline constexpr size_t kLawVariableCount = 11;

// The symbol of the equations: N, D, P, G, lr_ratio, ...; also the name in messages.
std::string_view law_variable_symbol(LawVariable variable);
// The column of a CSV file: N, D, bits, group_size, ...
std::string_view law_variable_column(LawVariable variable);

class LawPoint {
 public:
  LawPoint() {
    values_.fill(std::numeric_limits<double>::quiet_NaN());
    logs_.fill(std::numeric_limits<double>::quiet_NaN());
  }
  LawPoint(double params, double tokens) : LawPoint() {
    set(LawVariable::params, params);
    set(LawVariable::tokens, tokens);
  }
  LawPoint(double params, double tokens, double bits) : LawPoint(params, tokens) {
    set(LawVariable::bits, bits);
  }

  void set(LawVariable variable, double value) {
    values_[static_cast<size_t>(variable)] = value;
    logs_[static_cast<size_t>(variable)] = std::log(value);
  }
  double operator[](LawVariable variable) const { return values_[static_cast<size_t>(variable)]; }
  // Natural logarithm, computed once: forms are evaluated many times at the same points.
  double ln(LawVariable variable) const { return logs_[static_cast<size_t>(variable)]; }
  bool has(LawVariable variable) const { return !std::isnan((*this)[variable]); }

 private:
  std::array<double, kLawVariableCount> values_, logs_;
};

}  // namespace fewbit
