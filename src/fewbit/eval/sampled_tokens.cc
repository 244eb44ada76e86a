#include "fewbit/eval/sampled_tokens.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/random.h"
#include "fewbit/eval/token_loss.h"

namespace fewbit {
namespace {

int32_t draw(std::span<float> logits, double temperature, RandomStream& random) {
  if (temperature == 0) return static_cast<int32_t>(row_sum(logits).argmax);
  for (float& z : logits) z = static_cast<float>(z / temperature);
  std::vector<double> log_probabilities(logits.size());
  log_softmax_row(logits, log_probabilities);
  const double wanted = random.uniform();
  double sum = 0;
  int32_t last = 0;  // Rounding may leave the whole sum just below `wanted`.
  for (size_t v = 0; v < logits.size(); ++v) {
    const double p = std::exp(log_probabilities[v]);
    if (p > 0) last = static_cast<int32_t>(v);
    sum += p;
    if (sum > wanted) break;
  }
  return last;
}

}  // namespace

std::vector<std::vector<int32_t>> sample_sequences(LanguageModel& model,
                                                   const SampleOptions& options) {
  const size_t columns = model.spec().vocab_size;
  const size_t vocabulary = options.vocabulary == 0 ? columns : options.vocabulary;
  require(vocabulary <= columns, "a vocabulary of {} tokens, but a model that knows {}", vocabulary,
          columns);
  require(options.sequences > 0 && options.length > 0 && options.batch > 0,
          "nothing to sample: {} sequences of {} tokens", options.sequences, options.length);
  require(std::isfinite(options.temperature) && options.temperature >= 0,
          "temperature {}: must be 0 or more", options.temperature);
  std::vector<std::vector<int32_t>> sequences(options.sequences);
  Progress progress("sample", options.sequences * options.length, "tokens", options.progress);
  for (size_t first = 0; first < options.sequences; first += options.batch) {
    const size_t batch = std::min(options.batch, options.sequences - first);
    std::vector<RandomStream> random;
    for (size_t b = 0; b < batch; ++b) {
      random.emplace_back(options.seed, fmt::format("sample/{}", first + b));
    }
    BasicMatrix<int32_t> tokens(batch, options.length, options.bos);
    std::vector<float> row(columns);
    for (size_t t = 0; t < options.length; ++t) {
      throw_if_interrupted();
      // The prefix of every sequence, packed without gaps as models expect it.
      BasicMatrix<int32_t> prefix(batch, t + 1);
      for (size_t b = 0; b < batch; ++b) {
        std::copy_n(tokens.row(b).begin(), t + 1, prefix.row(b).begin());
      }
      const auto result =
          model.forward(MatrixView<const int32_t>(prefix.data(), prefix.rows(), prefix.cols()));
      for (size_t b = 0; b < batch; ++b) {
        result->logits(b * (t + 1) + t, MatrixView<float>(row.data(), 1, columns));
        const int32_t token =
            draw(std::span(row).first(vocabulary), options.temperature, random[b]);
        sequences[first + b].push_back(token);
        if (t + 1 < options.length) tokens(b, t + 1) = token;
      }
      progress.advance(batch);
    }
  }
  progress.finish();
  return sequences;
}

}  // namespace fewbit
