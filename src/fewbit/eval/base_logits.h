// The base model's distributions in 16 bits, so that it runs once for many quantized models; the
// file is that of llama.cpp's perplexity tool (--kl-divergence-base), little-endian:
//
//   "_logits_" | u32 context | i32 vocabulary | i32 chunks | i32 tokens[chunks * context]
//   | per chunk context - 1 - context / 2 records of u16[nv], nv = 2 * ((vocabulary + 1) / 2) + 4
//
// A record: f32 scale, f32 min_log_prob, then one code a token (and one 0 if the count is odd):
//   lo = max(min z, max z - 16), scale = (max z - lo) / 65535, lp ~= scale * code + min_log_prob
// Its tokens are the original ids; under second_half_bos the first of a window is overwritten in
// the forward pass only. Twice the vocabulary in bytes a token: 30 GB for a large one on
// WikiText-2, so running both models side by side is mostly the better way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "fewbit/base/file.h"
#include "fewbit/base/matrix.h"
#include "fewbit/eval/token_loss.h"

namespace fewbit {

// u16 values of a record.
size_t base_record_size(size_t vocabulary);

// Codes a row of logits; `record` has base_record_size(logits.size()) values.
void encode_base_row(std::span<const float> logits, std::span<uint16_t> record);

struct BaseRecord {
  float scale = 0, min_log_prob = 0;
  std::span<const uint16_t> codes;
  float log_prob(size_t token) const;
};
BaseRecord parse_base_record(std::span<const uint16_t> record, size_t vocabulary);

// Compares a quantized model's logits with a coded base; the divergence is summed over the tokens
// whose coded log-probability is above -16.
TokenComparison compare_with_base(const BaseRecord& base, std::span<const float> logits,
                                  int32_t target);

class BaseLogitsWriter {
 public:
  // `tokens`: chunks * context ids.
  BaseLogitsWriter(const std::filesystem::path& path, size_t context, size_t vocabulary,
                   std::span<const int32_t> tokens);
  // Rows in window order; coded in parallel.
  void write_rows(MatrixView<const float> logits);
  // Error if rows are missing. Without commit() no file is left.
  void commit();

 private:
  AtomicFile file_;
  size_t vocabulary_, rows_expected_, rows_written_ = 0;
};

class BaseLogitsFile {
 public:
  // Checks every size against the file's before anything is handed out.
  static BaseLogitsFile open(const std::filesystem::path& path);

  size_t context() const { return context_; }
  size_t vocabulary() const { return vocabulary_; }
  size_t chunks() const { return chunks_; }
  size_t rows_per_chunk() const { return context_ - 1 - context_ / 2; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // Record `row` of `chunk`, copied into `storage`.
  BaseRecord record(size_t chunk, size_t row, std::vector<uint16_t>& storage) const;

 private:
  MappedFile file_;
  size_t context_ = 0, vocabulary_ = 0, chunks_ = 0, records_at_ = 0;
  std::vector<int32_t> tokens_;
};

}  // namespace fewbit
