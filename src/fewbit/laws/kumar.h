// Scaling laws for precision (Kumar et al., arXiv 2411.04330): effective parameters, critical data
// size, compute-optimal training precision.
//
// A part trained in P bits (weights w, activations a, keys and values kv) counts as the factor
//   f(P) = 1 - exp(-P / gamma + n)
// of its parameters. The offset n is part of the published model: without it the constants of the
// paper's Table 2 give an optimal precision of 3.6 bits, with it the 7 to 8 bits of its text.
#pragma once

#include <vector>

namespace fewbit {

struct PrecisionPart {
  double gamma = 1;   // bits over which the loss of parameters falls by e
  double offset = 0;  // n
};

// f(P). Error if P <= gamma n, where the form has no value (f <= 0).
double precision_factor(const PrecisionPart& part, double bits);
// The same without the check: values <= 0 show where the form is undefined.
double unchecked_precision_factor(const PrecisionPart& part, double bits);

// Published constants (Appendix K, Table 2).
struct KumarConstants {
  double a = 4.299e3, b = 1.806e4, e = 2.7648, alpha = 0.4965;  // beta = alpha
  PrecisionPart weights{2.6745, 0.3037}, activations{2.2102, 1.4072}, cache{0.9578, 2.4185};
  // Degradation after training: C_T D^gamma_d / N^gamma_n exp(-P/gamma_post + post_offset). Whether
  // the paper's b = 1.1277 enters as post_offset is not certain; a fit absorbs it into C_T.
  double c_t = 0.0598, gamma_d = 0.5068, gamma_n = 0.3439, gamma_post = 0.5907, post_offset = 0;
};
inline constexpr double kKumarPostOffset = 1.1277;

// N times the factors of the three parts.
double effective_params(const KumarConstants& constants, double params, double weight_bits,
                        double activation_bits, double cache_bits);

// Degradation of a model trained in 16 bits when its weights are quantized to `bits`.
double post_training_degradation(const KumarConstants& constants, double params, double tokens,
                                 double bits);
// The same after training in `train_bits`: times 1 - exp(-c_w (train_bits - bits)); 0 if bits >=
// train_bits.
double post_training_degradation(const KumarConstants& constants, double params, double tokens,
                                 double bits, double train_bits, double c_w);

// A / N^alpha + B / D^alpha + E + post_training_degradation(): a model trained in 16 bits.
double loss_after_quantization(const KumarConstants& constants, double params, double tokens,
                               double bits);

// Tokens beyond which more training makes the quantized model worse:
//   D = [alpha B N^gamma_n e^(P/gamma_post - post_offset) / (gamma_d C_T)]^(1/(gamma_d + alpha))
double critical_tokens(const KumarConstants& constants, double params, double bits);

// Precision that minimises P / prod f_x(P), the compute-optimal training precision when N, D and P
// are all free: sum_x P f_x'/f_x = 1, independent of the exponents and of the compute.
double optimal_train_bits(const std::vector<PrecisionPart>& parts);

}  // namespace fewbit
