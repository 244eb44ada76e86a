// Rows of measurements, and which of them a fit may use.
#pragma once

#include <cstddef>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "fewbit/laws/form.h"

namespace fewbit {

inline constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

// One measurement. What is not known is NaN or empty.
struct LawRow {
  std::string run;     // training run: checkpoints of one run are not independent
  std::string method;  // quantization method
  std::string dataset;
  std::string schedule;  // of the learning rate
  LawPoint point;
  double qid = kMissing;  // loss after quantization minus before, nats per token; may be negative
  double qid_se = kMissing;  // standard error of the paired difference
  double loss16 = kMissing;  // loss before quantization
  double loss = kMissing;    // loss after quantization, or of a model trained in low precision
  double vocab = kMissing;   // entries of the vocabulary
  size_t line = 0;           // in the file, for messages; 0: none

  double quantity(LawQuantity which) const;
  // ln vocab - loss16: the QiD of a uniform guess. NaN if either is missing.
  double headroom(double default_vocab) const;
};

struct LawData {
  std::string source;  // file name, for messages
  std::vector<LawRow> rows;

  // "rows.csv:17" or "row 3".
  std::string place(size_t row) const;
};

// Rules of selection. Each drop is recorded with its reason.
struct RowRules {
  // Entries of the vocabulary where the rows do not say; 0: unknown.
  double vocab = 0;
  // QiD of at least this share of the headroom is left out: saturation bends the law well before
  // the random level.
  double saturation = 0.5;
  // log and huber: QiD must exceed this many standard errors (or floors, where a row has none).
  double noise_multiple = 3;
  double floor = 0;
  double min_tokens = 0;
  double max_loss16 = std::numeric_limits<double>::infinity();
  // Loss laws: leave out the rows whose loss is at least the k-th largest; 0: none.
  size_t drop_largest_losses = 0;
};

struct DroppedRow {
  size_t row;
  std::string reason;
};

struct RowSelection {
  std::vector<size_t> rows;  // in the order of the data
  std::vector<DroppedRow> dropped;
  // Enough was known to test for saturation in so many rows.
  size_t saturation_tested = 0;

  // reason -> (N, P) -> count.
  std::map<std::string, std::map<std::pair<double, double>, size_t>> dropped_counts(
      const LawData& data) const;
};

// Rows on which `form` can be fitted under `objective`.
RowSelection select_rows(const LawData& data, const FormInfo& form, FitObjective objective,
                         const RowRules& rules);

}  // namespace fewbit
