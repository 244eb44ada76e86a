#include "fewbit/laws/row_sampler.h"

#include <span>

#include "fewbit/base/random_key.h"
#include "fewbit/laws/stream_kernels.h"

namespace fewbit {
namespace {

// The upper half of the product.
uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

}  // namespace

RowSampler::RowSampler(size_t rows) : rows_(rows) {
  // One more value than rows, since a draw may start in the middle of a block.
  values_.resize((rows + 1 + kStreamValues - 1) / kStreamValues * kStreamValues);
}

void RowSampler::restart(uint64_t seed, std::string_view purpose) {
  key_ = stream_key(seed, purpose);
  position_ = 0;
}

void RowSampler::draw(std::vector<uint32_t>& counts) {
  counts.assign(rows_, 0);
  // As in RandomStream::below(): values from the largest multiple of `rows` on do not count.
  const uint64_t limit = UINT64_MAX - UINT64_MAX % rows_;
  const uint64_t reciprocal = UINT64_MAX / rows_;
  for (size_t missing = rows_; missing > 0;) {
    fill_stream_values(key_, position_ / 2, values_);
    const auto values = std::span(values_).subspan(position_ % 2, missing);
    position_ += missing;
    for (const uint64_t value : values) {
      if (value >= limit) continue;
      // The remainder without a division: the estimated quotient is right or one too small.
      const uint64_t rest = value - multiply_high(value, reciprocal) * rows_;
      ++counts[rest < rows_ ? rest : rest - rows_];
      --missing;
    }
  }
}

}  // namespace fewbit
