#include "fewbit/eval/base_logits.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the base file is read and written as is");

constexpr std::string_view kMagic = "_logits_";
constexpr size_t kHeaderBytes = 8 + 3 * 4;
constexpr float kRange = 16.0f;  // Log-probabilities further below the largest are clamped.
constexpr float kLargestCode = 65535.0f;
constexpr size_t kRecordHead = 4;  // u16 values that hold the two floats.

template <class T>
T read_at(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

}  // namespace

size_t base_record_size(size_t vocabulary) { return 2 * ((vocabulary + 1) / 2) + kRecordHead; }

void encode_base_row(std::span<const float> logits, std::span<uint16_t> record) {
  require(record.size() == base_record_size(logits.size()), "a record of {} values for {} logits",
          record.size(), logits.size());
  const RowSum sum = row_sum(logits);
  const float smallest = *std::min_element(logits.begin(), logits.end());
  const float low = std::max(smallest, sum.max - kRange);
  const float scale = (sum.max - low) / kLargestCode;
  const float min_log_prob = static_cast<float>(static_cast<double>(low - sum.max) - sum.log_sum);
  std::memcpy(record.data(), &scale, sizeof(scale));
  std::memcpy(record.data() + 2, &min_log_prob, sizeof(min_log_prob));
  const float inverse = scale > 0 ? 1 / scale : 0;
  for (size_t v = 0; v < logits.size(); ++v) {
    const float code = logits[v] > low ? std::nearbyint((logits[v] - low) * inverse) : 0.0f;
    record[kRecordHead + v] = static_cast<uint16_t>(std::min(code, kLargestCode));
  }
  for (size_t v = kRecordHead + logits.size(); v < record.size(); ++v) record[v] = 0;
}

BaseRecord parse_base_record(std::span<const uint16_t> record, size_t vocabulary) {
  require(record.size() == base_record_size(vocabulary), "a record of {} values for {} tokens",
          record.size(), vocabulary);
  BaseRecord result;
  std::memcpy(&result.scale, record.data(), sizeof(float));
  std::memcpy(&result.min_log_prob, record.data() + 2, sizeof(float));
  require(std::isfinite(result.scale) && result.scale >= 0 && std::isfinite(result.min_log_prob),
          "a record of the base file holds the scale {} and the smallest log-probability {}",
          result.scale, result.min_log_prob);
  result.codes = record.subspan(kRecordHead, vocabulary);
  return result;
}

float BaseRecord::log_prob(size_t token) const {
  return scale * static_cast<float>(codes[token]) + min_log_prob;
}

TokenComparison compare_with_base(const BaseRecord& base, std::span<const float> logits,
                                  int32_t target) {
  require(base.codes.size() == logits.size(), "a base of {} tokens for {} logits",
          base.codes.size(), logits.size());
  require(target >= 0 && static_cast<size_t>(target) < logits.size(),
          "token {} is outside the vocabulary of {} tokens", target, logits.size());
  const RowSum sum = row_sum(logits);
  const double log_normaliser = static_cast<double>(sum.max) + sum.log_sum;
  TokenComparison c;
  c.nll_base = -static_cast<double>(base.log_prob(static_cast<size_t>(target)));
  c.nll_quantized = log_normaliser - static_cast<double>(logits[static_cast<size_t>(target)]);
  size_t top = 0;
  for (size_t v = 0; v < logits.size(); ++v) {
    if (base.codes[v] > base.codes[top]) top = v;
    const float log_p = base.log_prob(v);
    if (log_p > -kRange) {
      c.kld += std::exp(static_cast<double>(log_p)) *
               (static_cast<double>(log_p) - static_cast<double>(logits[v]) + log_normaliser);
    }
  }
  c.p_diff = std::exp(-c.nll_quantized) - std::exp(-c.nll_base);
  c.same_top = top == sum.argmax;
  c.hit_base = top == static_cast<size_t>(target);
  c.hit_quantized = sum.argmax == static_cast<size_t>(target);
  return c;
}

BaseLogitsWriter::BaseLogitsWriter(const std::filesystem::path& path, size_t context,
                                   size_t vocabulary, std::span<const int32_t> tokens)
    : file_(path), vocabulary_(vocabulary) {
  require(context >= 3 && tokens.size() % context == 0, "{} tokens are not whole windows of {}",
          tokens.size(), context);
  const size_t chunks = tokens.size() / context;
  rows_expected_ = chunks * (context - 1 - context / 2);
  const uint32_t context32 = static_cast<uint32_t>(context);
  const int32_t sizes[2] = {static_cast<int32_t>(vocabulary), static_cast<int32_t>(chunks)};
  file_.write(kMagic);
  file_.write(std::as_bytes(std::span(&context32, 1)));
  file_.write(std::as_bytes(std::span(sizes)));
  file_.write(std::as_bytes(tokens));
}

void BaseLogitsWriter::write_rows(MatrixView<const float> logits) {
  require(logits.cols() == vocabulary_, "{} logits for a vocabulary of {}", logits.cols(),
          vocabulary_);
  require(rows_written_ + logits.rows() <= rows_expected_, "more rows than the {} declared",
          rows_expected_);
  const size_t size = base_record_size(vocabulary_);
  std::vector<uint16_t> records(logits.rows() * size);
  parallel_for(logits.rows(), [&](size_t r) {
    encode_base_row(logits.row(r), std::span(records).subspan(r * size, size));
  });
  file_.write(std::as_bytes(std::span<const uint16_t>(records)));
  rows_written_ += logits.rows();
}

void BaseLogitsWriter::commit() {
  require(rows_written_ == rows_expected_, "{} of {} rows written", rows_written_, rows_expected_);
  file_.commit();
}

BaseLogitsFile BaseLogitsFile::open(const std::filesystem::path& path) {
  return with_context(path.string(), [&] {
    BaseLogitsFile result;
    result.file_ = MappedFile::open(path);
    const auto bytes = result.file_.bytes();
    require(bytes.size() >= kHeaderBytes && as_text(bytes.first(kMagic.size())) == kMagic,
            "not a base file: it does not begin with '{}'", kMagic);
    const uint32_t context = read_at<uint32_t>(bytes, 8);
    const int32_t vocabulary = read_at<int32_t>(bytes, 12), chunks = read_at<int32_t>(bytes, 16);
    constexpr uint32_t kMostContext = 1u << 24;
    constexpr int32_t kMostVocabulary = 1 << 24, kMostChunks = 1 << 24;
    require(context >= 3 && context <= kMostContext, "context {}: must be 3 to {}", context,
            kMostContext);
    require(vocabulary >= 1 && vocabulary <= kMostVocabulary, "vocabulary {}: must be 1 to {}",
            vocabulary, kMostVocabulary);
    require(chunks >= 1 && chunks <= kMostChunks, "{} chunks: must be 1 to {}", chunks,
            kMostChunks);
    result.context_ = context;
    result.vocabulary_ = static_cast<size_t>(vocabulary);
    result.chunks_ = static_cast<size_t>(chunks);
    // Each factor is below 2^25, so the products fit in 128 bits and are compared there.
    const auto token_bytes = static_cast<unsigned __int128>(result.chunks_) * context * 4;
    const auto record_bytes = static_cast<unsigned __int128>(result.chunks_) *
                              result.rows_per_chunk() * base_record_size(result.vocabulary_) * 2;
    require(kHeaderBytes + token_bytes + record_bytes == bytes.size(),
            "{} bytes are not what {} windows of {} tokens and a vocabulary of {} take",
            bytes.size(), chunks, context, vocabulary);
    result.records_at_ = kHeaderBytes + static_cast<size_t>(token_bytes);
    result.tokens_.resize(result.chunks_ * result.context_);
    std::memcpy(result.tokens_.data(), bytes.data() + kHeaderBytes,
                static_cast<size_t>(token_bytes));
    for (size_t i = 0; i < result.tokens_.size(); ++i) {
      require(result.tokens_[i] >= 0 && result.tokens_[i] < vocabulary,
              "token {} at place {} is outside the vocabulary of {}", result.tokens_[i], i,
              vocabulary);
    }
    return result;
  });
}

BaseRecord BaseLogitsFile::record(size_t chunk, size_t row, std::vector<uint16_t>& storage) const {
  require(chunk < chunks_ && row < rows_per_chunk(), "row {} of window {} is not in the base file",
          row, chunk);
  const size_t size = base_record_size(vocabulary_);
  storage.resize(size);
  const size_t offset = records_at_ + (chunk * rows_per_chunk() + row) * size * 2;
  std::memcpy(storage.data(), file_.bytes().data() + offset, size * 2);
  return parse_base_record(storage, vocabulary_);
}

}  // namespace fewbit
