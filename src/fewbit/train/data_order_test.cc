#include "fewbit/train/data_order.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

std::vector<int32_t> counting(size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

// First tokens of the windows of updates [first, first + count).
std::vector<int64_t> starts(DataOrder& data, uint64_t first, uint64_t count) {
  std::vector<int64_t> result;
  for (uint64_t step = first; step < first + count; ++step) {
    const at::Tensor inputs = data.batch(step).inputs;
    for (int64_t s = 0; s < inputs.size(0); ++s) result.push_back(inputs[s][0].item<int64_t>());
  }
  return result;
}

TEST(DataOrderTest, AnEpochReadsEveryWindowOnce) {
  const auto tokens = counting(12 * 5 + 3);
  DataOrder data(tokens, 5, 4, 1);
  ASSERT_EQ(data.windows(), 12u);
  for (uint64_t epoch = 0; epoch < 2; ++epoch) {
    const auto first = starts(data, 3 * epoch, 3);
    const std::set<int64_t> seen(first.begin(), first.end());
    EXPECT_EQ(seen.size(), 12u);
    EXPECT_EQ(*seen.rbegin(), 55);
  }
  EXPECT_NE(starts(data, 0, 3), starts(data, 3, 3));
}

TEST(DataOrderTest, TargetsAreTheTokensBehindTheInputs) {
  const auto tokens = counting(100);
  DataOrder data(tokens, 7, 3, 1);
  const TrainingBatch batch = data.batch(2);
  EXPECT_TRUE(at::equal(batch.targets, batch.inputs + 1));
  EXPECT_EQ(batch.inputs.sizes(), at::IntArrayRef({3, 7}));
}

TEST(DataOrderTest, IsAFunctionOfSeedAndStepOnly) {
  const auto tokens = counting(1000);
  DataOrder data(tokens, 10, 4, 7), again(tokens, 10, 4, 7), other(tokens, 10, 4, 8);
  const auto forward = starts(data, 0, 30);
  // Out of order, and over the end of an epoch.
  EXPECT_EQ(starts(again, 20, 10), std::vector<int64_t>(forward.begin() + 80, forward.end()));
  EXPECT_EQ(starts(again, 0, 30), forward);
  EXPECT_NE(starts(other, 0, 30), forward);
}

TEST(DataOrderTest, TheBatchSizeDoesNotChangeTheOrder) {
  const auto tokens = counting(1000);
  DataOrder small(tokens, 10, 2, 3), large(tokens, 10, 6, 3);
  EXPECT_EQ(starts(small, 0, 9), starts(large, 0, 3));
}

TEST(DataOrderTest, ATextShorterThanAWindowIsRefused) {
  EXPECT_THROW(DataOrder(counting(10), 10, 1, 0), Error);
}

}  // namespace
}  // namespace fewbit
