#include "fewbit/study/store.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

std::vector<Job> chain() {
  Job reference{.key = "ref", .kind = JobKind::reference, .spec = Json::object()};
  Job quantize{.key = "quant", .kind = JobKind::quantize, .spec = Json::object()};
  Job measure{.key = "measure",
              .kind = JobKind::measure,
              .spec = {{"dataset", "novels"}},
              .needs = {"ref", "quant"}};
  return {measure, reference, quantize};
}

StudyStore open_with_chain(const std::filesystem::path& path) {
  StudyStore store = StudyStore::open(path);
  store.add_jobs(chain(), false);
  store.set_plan("plan", {"ref", "quant", "measure"});
  return store;
}

TEST(StudyStoreTest, AJobWaitsForWhatItReads) {
  testing::TemporaryDirectory folder;
  StudyStore store = open_with_chain(folder / "s");
  const auto first = store.take_ready_job(), second = store.take_ready_job();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->key, "ref");
  EXPECT_EQ(second->key, "quant");
  EXPECT_FALSE(store.take_ready_job());
  store.finish(*first, {{{"loss", 1.5}}, {1, 2}, {3, 4}});
  EXPECT_FALSE(store.take_ready_job());
  store.finish(*second, {Json::object(), {}, {}});
  const auto third = store.take_ready_job();
  ASSERT_TRUE(third);
  EXPECT_EQ(third->spec["dataset"], "novels");
  EXPECT_FALSE(store.all_dependents_ended("quant"));
  store.finish(*third, {{{"qid", 0.1}}, {}, {}});
  EXPECT_TRUE(store.all_dependents_ended("quant"));
  EXPECT_EQ(store.result("ref")->losses, (std::vector<double>{1, 2}));
  EXPECT_EQ(store.counts()[JobState::done], 3u);
}

TEST(StudyStoreTest, AKilledProcessLosesAndRepeatsNothing) {
  testing::TemporaryDirectory folder;
  {
    StudyStore store = open_with_chain(folder / "s");
    store.finish(*store.take_ready_job(), {{{"loss", 1}}, {}, {}});
    ASSERT_TRUE(store.take_ready_job());  // Left running.
  }
  StudyStore store = open_with_chain(folder / "s");
  EXPECT_EQ(store.counts()[JobState::done], 1u);
  EXPECT_EQ(store.counts()[JobState::pending], 2u);
  EXPECT_EQ(store.take_ready_job()->key, "quant");
}

TEST(StudyStoreTest, AFailureReachesDependentsAndNothingElse) {
  testing::TemporaryDirectory folder;
  StudyStore store = open_with_chain(folder / "s");
  const Job reference = *store.take_ready_job();
  const Job quantize = *store.take_ready_job();
  store.fail_job(quantize, "broken");
  store.finish(reference, {Json::object(), {}, {}});
  EXPECT_EQ(store.counts()[JobState::failed], 2u);
  EXPECT_EQ(store.jobs()[0].error, "needs: broken");
  store.add_jobs(chain(), true);
  EXPECT_EQ(store.take_ready_job()->key, "quant");
}

TEST(StudyStoreTest, OnlyOneProcessOwnsAStore) {
  testing::TemporaryDirectory folder;
  StudyStore store = open_with_chain(folder / "s");
  EXPECT_THROW(StudyStore::open(folder / "s"), Error);
  EXPECT_EQ(StudyStore::open_read_only(folder / "s").plan_text(), "plan");
  EXPECT_THROW(StudyStore::open_read_only(folder / "other"), Error);
}

}  // namespace
}  // namespace fewbit
