// Prediction and planning with fitted or published laws: a law of the loss before quantization, a
// law of QiD, or both.
//
//   loss after quantization = loss16(N, D) + QiD(N, D, P), at most ln V
//
// A QiD above the headroom ln V - loss16 is not a loss that a model can have: the prediction is cut
// there and flagged as at or below random.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/statistics.h"
#include "fewbit/laws/form.h"
#include "fewbit/laws/hull.h"
#include "fewbit/laws/presets.h"

namespace fewbit {

// A law with its bootstrap draws (fitted parameters) and the hull of its data; a published law has
// no draws, and of its data at most the corners.
struct LawWithErrors {
  Law law;
  std::vector<std::vector<double>> draws;
  DataHull hull;
};

// A published law, with the corners of its data. Error if the preset is not complete.
LawWithErrors published_law(const LawPreset& preset);

struct Predictor {
  std::optional<LawWithErrors> loss16, qid;
  double vocab = 0;  // 0: unknown, no headroom
  double level = 0.95;
};

struct Prediction {
  LawPoint point;
  // NaN without the law. Intervals from the draws; NaN without draws.
  double loss16 = 0, qid = 0, loss = 0;
  Interval loss16_interval, qid_interval, loss_interval;
  double headroom = 0;
  double capped_qid = 0;
  bool at_or_below_random = false;
  // The farther of the two laws' offsets from their data.
  DataHull::Offset offset;
  // "EXTRAPOLATION: N is 2.30 e-folds above", or empty.
  std::string warning;
};

Prediction predict(const Predictor& predictor, const LawPoint& point);

// Tokens at which the law gives this QiD: D* of the inverse law. Error if the law does not depend
// on tokens as a power. qid > 0.
double tokens_for_qid(const Law& law, double params, double bits, double qid);
// The same at a point with all that the law reads but tokens.
double tokens_for_qid(const Law& law, LawPoint point, double qid);

struct BestTokens {
  double tokens = 0, loss = 0;
  bool inside = false;  // false: the minimum lies at an end of the range
};
// Tokens that minimise loss16 + QiD of a model size at a bit width: beyond them training hurts the
// quantized model.
BestTokens best_tokens(const Law& loss16, const Law& qid, double params, double bits,
                       double low = 1e8, double high = 1e18);

// The smallest of the bit widths at which the loss is at most `target`; none if it never is.
std::optional<double> smallest_bits(const Predictor& predictor, double params, double tokens,
                                    double target, std::vector<double> bit_widths);

// Bits per weight stored by a group quantizer: codes, a 16-bit scale and a zero point of P bits for
// each group. group_size 0: no overhead.
double effective_bits(double bits, double group_size);

struct SizedLoss {
  double total_bits = 0, loss = 0;
  size_t index = 0;  // of the caller's list
};
// Those that no other beats in both size and loss, by size.
std::vector<SizedLoss> pareto_front(std::vector<SizedLoss> candidates);

}  // namespace fewbit
