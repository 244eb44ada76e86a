#include "fewbit/train/data_order.h"

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"

namespace fewbit {

DataOrder::DataOrder(std::span<const int32_t> tokens, size_t context, size_t sequences,
                     uint64_t seed)
    : tokens_(tokens), context_(context), sequences_(sequences), windows_(0), seed_(seed) {
  require(context > 0 && sequences > 0, "a batch of {} sequences of {} tokens", sequences, context);
  require(tokens.size() > context, "a training text of {} tokens is shorter than one window of {}",
          tokens.size(), context + 1);
  windows_ = (tokens.size() - 1) / context;
  require(windows_ <= UINT32_MAX, "a training text of {} windows is too long", windows_);
}

uint32_t DataOrder::window_at(uint64_t position) {
  const uint64_t epoch = position / windows_;
  if (epoch != epoch_) {
    RandomStream random(seed_, fmt::format("data order, epoch {}", epoch));
    order_ = random.permutation(windows_);
    epoch_ = epoch;
  }
  return order_[position % windows_];
}

TrainingBatch DataOrder::batch(uint64_t step) {
  const std::initializer_list<int64_t> shape = {static_cast<int64_t>(sequences_),
                                                static_cast<int64_t>(context_)};
  TrainingBatch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
  int64_t* inputs = batch.inputs.data_ptr<int64_t>();
  int64_t* targets = batch.targets.data_ptr<int64_t>();
  for (size_t s = 0; s < sequences_; ++s) {
    const int32_t* window = tokens_.data() + window_at(step * sequences_ + s) * context_;
    for (size_t t = 0; t < context_; ++t) {
      *inputs++ = window[t];
      *targets++ = window[t + 1];
    }
  }
  return batch;
}

}  // namespace fewbit
