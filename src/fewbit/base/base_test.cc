#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <fstream>
#include <thread>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/half.h"
#include "fewbit/base/json.h"
#include "fewbit/base/random.h"
#include "fewbit/base/statistics.h"
#include "fewbit/base/threads.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

TEST(HalfTest, EveryBinary16ValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value))));
    } else {
      ASSERT_EQ(float_to_f16(value), bits);
    }
  }
}

TEST(HalfTest, RoundsToNearestEven) {
  EXPECT_EQ(float_to_f16(1.0f + 0x1p-11f), float_to_f16(1.0f));  // tie to even
  EXPECT_EQ(float_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);          // tie to even, up
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0);  // tie to zero
  EXPECT_EQ(float_to_f16(0x1.8p-25f), 1);
  EXPECT_EQ(float_to_bf16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(float_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
}

TEST(RandomTest, PhiloxMatchesThePublishedKnownAnswers) {
  // Random123 distribution, kat_vectors: philox4x32 10 with all-zero and all-one input.
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(RandomTest, StreamContinuesFromAnyPosition) {
  RandomStream straight(7, "data"), resumed(7, "data");
  for (int i = 0; i < 5; ++i) straight.next_u32();
  resumed.set_position(straight.position());
  for (int i = 0; i < 9; ++i) EXPECT_EQ(straight.next_u32(), resumed.next_u32());
}

TEST(ThreadsTest, EveryIndexRunsOnceAndTheFirstExceptionArrives) {
  for (size_t threads : {1, 2, 5}) {
    set_thread_count(threads);
    std::vector<std::atomic<int>> calls(1000);
    parallel_for(calls.size(), [&](size_t i) { ++calls[i]; });
    for (const auto& count : calls) EXPECT_EQ(count.load(), 1);
    EXPECT_THROW(parallel_for(100, [](size_t i) { require(i != 50, "fifty"); }), Error);
  }
}

TEST(ThreadsTest, LoopsOfSeveralThreadsRunAtATime) {
  set_thread_count(3);
  std::vector<size_t> sums(4);
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < sums.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        std::vector<size_t> values(17);
        parallel_for(values.size(), [&](size_t i) { values[i] = i + caller; });
        for (const size_t value : values) sums[caller] += value;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (size_t caller = 0; caller < sums.size(); ++caller) {
    EXPECT_EQ(sums[caller], 200 * (17 * 16 / 2 + 17 * caller));
  }
}

TEST(FileTest, NothingIsLeftWithoutCommit) {
  testing::TemporaryDirectory folder;
  { AtomicFile(folder / "a.txt").write("half"); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  write_file_atomically(folder / "a.txt", "whole");
  EXPECT_EQ(read_text_file(folder / "a.txt"), "whole");
  EXPECT_EQ(sha256_file(folder / "a.txt"), sha256_hex(std::string_view("whole")));
}

TEST(FileTest, TheNextWriterRemovesWhatAKilledOneLeft) {
  testing::TemporaryDirectory folder;
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicDirectory directory(folder / "model", true);
    AtomicFile file(directory.staging() / "weights");
    file.write("half");
    ::_exit(0);  // Without any clearing up.
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  AtomicDirectory(folder / "model", true).commit();
  EXPECT_TRUE(std::filesystem::is_empty(folder / "model"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(FileTest, DirectoryAppearsWholeAndIsNotOverwrittenUnasked) {
  testing::TemporaryDirectory folder;
  { AtomicDirectory abandoned(folder / "model", false); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  for (int round = 0; round < 2; ++round) {
    AtomicDirectory directory(folder / "model", true);
    write_file_atomically(directory.staging() / "x", std::to_string(round));
    directory.commit();
  }
  EXPECT_EQ(read_text_file(folder / "model/x"), "1");
  EXPECT_THROW(AtomicDirectory(folder / "model", false), Error);
}

TEST(StatisticsTest, QuantilesInterpolateLinearly) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(quantile(values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile(values, 1.0), 4);
  EXPECT_DOUBLE_EQ(mean_estimate(values).standard_error, std::sqrt(5.0 / 3 / 4));
}

TEST(JsonTest, DuplicatesDepthAndBrokenTextAreNamed) {
  EXPECT_THROW(parse_json(R"({"a":1,"a":2})", "x"), Error);
  EXPECT_THROW(parse_json(std::string(1000, '['), "x"), Error);
  EXPECT_THROW(parse_json("{\"a\":\"\xff\"}", "x"), Error);
  EXPECT_THROW(json_get_size(parse_json(R"({"n":-1})", "x"), "n", 10), Error);
  EXPECT_EQ(json_get_size(parse_json(R"({"n":7})", "x"), "n", 10), 7u);
}

}  // namespace
}  // namespace fewbit
