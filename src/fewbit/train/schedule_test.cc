#include "fewbit/train/schedule.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr uint64_t kTotal = 1000;

Schedule schedule_of(ScheduleKind kind) {
  Schedule schedule;
  schedule.kind = kind;
  schedule.peak = 0.1;
  schedule.warmup_steps = 100;
  schedule.floor_fraction = 0.2;
  schedule.decay_fraction = 0.25;
  return schedule;
}

TEST(ScheduleTest, WarmsUpLinearlyToThePeak) {
  for (const std::string& name : schedule_names()) {
    const Schedule schedule = schedule_of(parse_schedule(name));
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 0, kTotal), 0.001) << name;
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 49, kTotal), 0.05) << name;
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 99, kTotal), 0.1) << name;
    EXPECT_DOUBLE_EQ(learning_rate(schedule, 100, kTotal), 0.1) << name;
  }
}

TEST(ScheduleTest, ConstantStaysAtThePeak) {
  const Schedule schedule = schedule_of(ScheduleKind::constant);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 999, kTotal), 0.1);
}

TEST(ScheduleTest, LinearAndCosineEndAtTheFloor) {
  const Schedule linear = schedule_of(ScheduleKind::linear);
  const Schedule cosine = schedule_of(ScheduleKind::cosine);
  // Half of the way after the warmup.
  EXPECT_NEAR(learning_rate(linear, 550, kTotal), 0.06, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, 550, kTotal), 0.06, 1e-12);
  EXPECT_GT(learning_rate(cosine, 300, kTotal), learning_rate(linear, 300, kTotal));
  EXPECT_NEAR(learning_rate(linear, kTotal, kTotal), 0.02, 1e-12);
  EXPECT_NEAR(learning_rate(cosine, kTotal, kTotal), 0.02, 1e-12);
}

TEST(ScheduleTest, WarmupStableDecayFallsToZeroInItsLastPart) {
  const Schedule schedule = schedule_of(ScheduleKind::wsd);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 750, kTotal), 0.1);
  EXPECT_NEAR(learning_rate(schedule, 875, kTotal), 0.05, 1e-12);
  EXPECT_NEAR(learning_rate(schedule, 999, kTotal), 0.1 / 250, 1e-12);
}

TEST(ScheduleTest, WithoutWarmupTheFirstUpdateHasThePeak) {
  Schedule schedule = schedule_of(ScheduleKind::cosine);
  schedule.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0, kTotal), 0.1);
}

TEST(ScheduleTest, AnUnknownNameIsRefusedWithTheKnownOnes) {
  try {
    parse_schedule("sine");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cosine"), std::string::npos);
  }
}

}  // namespace
}  // namespace fewbit
