// Level quantizers of the literature, as choices of grid, scale and gradient.
//
//   method        bits      grid                    scale per group            gradient of w
//   elastic       1         signs                   learned, from mean |w|     |u| <= 1
//   stretched     1.58..4   stretched               learned, from max |w|      |u| <= 0.99
//   lsq           2..8      signed integers         learned, 2 mean|w|/sqrt P  inside the range
//   min-max       2..8      signed integers         max |w| / P                identity
//   absmean       1.58      ternary                 mean |w|                   identity
//   bitnet b1     1         signs of w - mean       mean |w|                   identity
//   trilm         1.58      ternary                 mean |w| + 1e-5            identity
//   bilm          1         signs of w - mean       mean |w|                   identity
//   llm-qat       1, 2      signs, stretched        mean |w|, 2 mean |w|       identity
//
// with P = 2^(bits-1) - 1. Sources: ParetoQ (arXiv 2502.02631), LSQ (1902.08153), BitNet
// (2310.11453), BitNet b1.58 (2402.17764), Spectra (2407.12327), LLM-QAT (2305.17888).
#pragma once

#include "fewbit/train/quantizer_level.h"

namespace fewbit {

struct ParetoQOptions {
  // Clipped ternary weights pass +-1 to the scale's gradient instead of their level +-2/3, and
  // binary weights of 0 stay 0, as in the published code.
  bool compatible = false;
};
// Gradients of ParetoQ, for a matrix of `weights` elements: the scale's is multiplied by
// 1 / sqrt(weights Q), Q = 1, or 2^(bits-1) - 1 for lsq_rule().
LevelRule elastic_rule(int64_t weights, const ParetoQOptions& options = {});
LevelRule stretched_rule(int levels, int64_t weights, const ParetoQOptions& options = {});
LevelRule paretoq_lsq_rule(int bits, int64_t weights);
// Levels of "1", "1.58", "2", "3", "4": 2, 3, 4, 8, 16. Error for other words.
int levels_of_bits(std::string_view bits);
// ParetoQ: elastic for 1 bit, stretched for 1.58 and 2, LSQ for 3 and 4, with its own start:
// mean |w|, max |w|, max |w| / P.
LevelQuantizer paretoq_quantizer(std::string_view bits, const ScaleGroups& groups,
                                 const ParetoQOptions& options = {});

// LSQ as published: bounds count as clipped, the scale's gradient is multiplied by
// 1 / sqrt(count P), count = weights (or features) under one scale.
LevelRule lsq_rule(const LevelGrid& grid, int64_t count);
// 2 / sqrt(P) times the mean magnitude.
ScaleStatistic lsq_start(const LevelGrid& grid);
LevelQuantizer lsq_quantizer(int bits, const ScaleGroups& groups);

LevelQuantizer min_max_quantizer(int bits, const ScaleGroups& groups);
LevelQuantizer absmean_quantizer(const ScaleGroups& groups);
LevelQuantizer bitnet_b1_quantizer(const ScaleGroups& groups);
LevelQuantizer trilm_quantizer(const ScaleGroups& groups);
LevelQuantizer bilm_quantizer(const ScaleGroups& groups);
// 1 or 2 bits; min_max_quantizer() for more.
LevelQuantizer llm_qat_quantizer(int bits, const ScaleGroups& groups);

}  // namespace fewbit
