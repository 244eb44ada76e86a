#include "fewbit/laws/kumar.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/laws/scalar_minimum.h"

namespace fewbit {

double unchecked_precision_factor(const PrecisionPart& part, double bits) {
  return -std::expm1(-bits / part.gamma + part.offset);
}

double precision_factor(const PrecisionPart& part, double bits) {
  const double factor = unchecked_precision_factor(part, bits);
  require(factor > 0, "{} bits: the law is undefined at and below {:.3f} bits for this part", bits,
          part.gamma * part.offset);
  return factor;
}

double effective_params(const KumarConstants& constants, double params, double weight_bits,
                        double activation_bits, double cache_bits) {
  return params * precision_factor(constants.weights, weight_bits) *
         precision_factor(constants.activations, activation_bits) *
         precision_factor(constants.cache, cache_bits);
}

double post_training_degradation(const KumarConstants& constants, double params, double tokens,
                                 double bits) {
  return constants.c_t *
         std::exp(constants.gamma_d * std::log(tokens) - constants.gamma_n * std::log(params) -
                  bits / constants.gamma_post + constants.post_offset);
}

double post_training_degradation(const KumarConstants& constants, double params, double tokens,
                                 double bits, double train_bits, double c_w) {
  if (bits >= train_bits) return 0;
  return -std::expm1(-c_w * (train_bits - bits)) *
         post_training_degradation(constants, params, tokens, bits);
}

double loss_after_quantization(const KumarConstants& constants, double params, double tokens,
                               double bits) {
  return constants.a * std::pow(params, -constants.alpha) +
         constants.b * std::pow(tokens, -constants.alpha) + constants.e +
         post_training_degradation(constants, params, tokens, bits);
}

double critical_tokens(const KumarConstants& constants, double params, double bits) {
  const double ln_ratio = std::log(constants.alpha * constants.b) +
                          constants.gamma_n * std::log(params) + bits / constants.gamma_post -
                          constants.post_offset - std::log(constants.gamma_d * constants.c_t);
  return std::exp(ln_ratio / (constants.gamma_d + constants.alpha));
}

double optimal_train_bits(const std::vector<PrecisionPart>& parts) {
  require(!parts.empty(), "optimal precision of no parts");
  // Above the last pole P/f falls and then rises; far beyond all scales f is 1 and P/f grows.
  double low = 0, scale = 0;
  for (const PrecisionPart& part : parts) {
    low = std::max(low, part.gamma * part.offset);
    scale = std::max(scale, part.gamma);
  }
  constexpr double kScales = 40;
  const auto cost = [&](double bits) {
    double value = std::log(bits);
    for (const PrecisionPart& part : parts) {
      const double factor = unchecked_precision_factor(part, bits);
      if (!(factor > 0)) return std::numeric_limits<double>::infinity();
      value -= std::log(factor);
    }
    return value;
  };
  const double start = low + 1e-9 * scale;
  return golden_minimum(cost, start, low + kScales * scale).at;
}

}  // namespace fewbit
