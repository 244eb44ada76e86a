#include "fewbit/eval/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kBos = 99;

std::vector<int32_t> counting(size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

WindowOptions options(WindowRule rule, size_t context, size_t stride = 0) {
  WindowOptions o;
  o.rule = rule;
  o.context = context;
  o.stride = stride;
  if (window_rule_needs_bos(rule)) o.bos = kBos;
  return o;
}

std::string error_of(size_t tokens, const WindowOptions& o) {
  const std::vector<int32_t> stream = counting(tokens);
  try {
    WindowPlan plan(stream, o);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Every rule at many lengths: what must hold of any window.
void check_windows(WindowRule rule, size_t count, size_t context, size_t stride) {
  const std::vector<int32_t> tokens = counting(count);
  const WindowPlan plan(tokens, options(rule, context, stride));
  uint64_t scored = 0;
  size_t longest = 0;
  for (size_t i = 0; i < plan.size(); ++i) {
    const Window w = plan.window(i);
    scored += w.targets.size();
    longest = std::max(longest, w.input.size());
    ASSERT_GT(w.targets.size(), 0u);
    ASSERT_EQ(w.first_row + w.targets.size(), w.input.size());
    ASSERT_LE(w.input.size(), context);
    for (size_t t = 0; t < w.targets.size(); ++t) {
      ASSERT_EQ(w.targets[t], static_cast<int32_t>(w.first_target + t));
      // The token before a target is the last that its row has seen, unless a BOS stands there.
      const int32_t seen = w.input[w.first_row + t];
      if (seen != kBos) {
        ASSERT_EQ(seen, w.targets[t] - 1);
      }
    }
  }
  EXPECT_EQ(scored, plan.scored_tokens());
  EXPECT_EQ(longest, plan.longest_input());
}

TEST(WindowsTest, ATargetFollowsTheTokensOfItsRow) {
  for (const std::string& name : window_rule_names()) {
    const WindowRule rule = parse_window_rule(name);
    for (const size_t context : {3u, 4u, 7u, 8u}) {
      for (size_t count = 2 * context; count < 5 * context; ++count) {
        SCOPED_TRACE(fmt::format("{} {} {}", name, context, count));
        check_windows(rule, count, context, rule == WindowRule::strided ? context / 2 : 0);
        if (rule == WindowRule::strided) check_windows(rule, count, context, context);
      }
    }
  }
}

TEST(WindowsTest, SecondHalfOverwritesTheFirstTokenForTheInputOnly) {
  const std::vector<int32_t> tokens = counting(20);
  const WindowPlan plan(tokens, options(WindowRule::second_half_bos, 6));
  ASSERT_EQ(plan.size(), 3u);  // floor(21 / 6)
  // Stream: BOS 0 1 2 3 4 | 5 6 7 8 9 10 | 11 ...
  EXPECT_THAT(plan.window(0).input, ElementsAre(kBos, 0, 1, 2, 3));
  EXPECT_THAT(plan.window(0).targets, ElementsAre(3, 4));
  EXPECT_THAT(plan.window(1).input, ElementsAre(kBos, 6, 7, 8, 9));
  EXPECT_THAT(plan.window(1).targets, ElementsAre(9, 10));
}

TEST(WindowsTest, WindowBosScoresEveryTokenBehindABos) {
  const std::vector<int32_t> tokens = counting(11);
  const WindowPlan plan(tokens, options(WindowRule::window_bos, 4));
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_THAT(plan.window(2).input, ElementsAre(kBos, 6, 7));
  EXPECT_THAT(plan.window(2).targets, ElementsAre(6, 7, 8));
}

TEST(WindowsTest, StridedScoresOnlyWhatIsNew) {
  const std::vector<int32_t> tokens = counting(10);
  const WindowPlan plan(tokens, options(WindowRule::strided, 6, 3));
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_THAT(plan.window(0).targets, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(plan.window(1).input, ElementsAre(3, 4, 5, 6, 7));
  EXPECT_THAT(plan.window(1).targets, ElementsAre(6, 7, 8));
  EXPECT_THAT(plan.window(2).input, ElementsAre(6, 7, 8));
  EXPECT_THAT(plan.window(2).targets, ElementsAre(9));
}

TEST(WindowsTest, StrideOfAWholeWindowIsConcatPlusTheTail) {
  const std::vector<int32_t> tokens = counting(23);
  const WindowPlan strided(tokens, options(WindowRule::strided, 5, 5));
  const WindowPlan concat(tokens, options(WindowRule::concat_no_bos, 5));
  ASSERT_EQ(strided.size(), concat.size() + 1);
  for (size_t i = 0; i < concat.size(); ++i) {
    EXPECT_EQ(strided.window(i).targets, concat.window(i).targets);
    EXPECT_EQ(strided.window(i).input, concat.window(i).input);
  }
  EXPECT_THAT(strided.window(4).targets, ElementsAre(21, 22));
}

TEST(WindowsTest, RollingPrefixScoresEveryTokenOnce) {
  for (size_t context = 2; context < 8; ++context) {
    for (size_t count = 1; count < 40; ++count) {
      const std::vector<int32_t> tokens = counting(count);
      const WindowPlan plan(tokens, options(WindowRule::rolling_prefix, context));
      std::vector<int32_t> targets;
      for (size_t i = 0; i < plan.size(); ++i) {
        const Window w = plan.window(i);
        targets.insert(targets.end(), w.targets.begin(), w.targets.end());
        if (i > 0) {
          EXPECT_EQ(w.input.size(), context);
        }
      }
      EXPECT_EQ(targets, tokens) << context << ' ' << count;
    }
  }
}

TEST(WindowsTest, DocumentsFollowOneAnother) {
  const std::vector<int32_t> first = counting(7), second = counting(4);
  const std::vector<std::span<const int32_t>> documents{first, second};
  const WindowPlan plan(documents, options(WindowRule::rolling_prefix, 3));
  ASSERT_EQ(plan.size(), 5u);
  EXPECT_EQ(plan.window(2).document, 0u);
  EXPECT_EQ(plan.window(3).document, 1u);
  EXPECT_THAT(plan.window(3).input, ElementsAre(kBos, 0, 1));
  EXPECT_EQ(plan.tokens(), 11u);
  EXPECT_EQ(plan.scored_tokens(), 11u);
}

TEST(WindowsTest, MaxWindowsKeepsTheFirst) {
  const std::vector<int32_t> tokens = counting(40);
  WindowOptions o = options(WindowRule::concat_no_bos, 4);
  o.max_windows = 3;
  const WindowPlan plan(tokens, o);
  EXPECT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan.scored_tokens(), 9u);
  EXPECT_THROW(plan.window(3), Error);
}

TEST(WindowsTest, ShortTextsAndMissingBosAreRefused) {
  EXPECT_THAT(error_of(15, options(WindowRule::second_half_no_bos, 8)),
              HasSubstr("needs at least 16"));
  EXPECT_EQ(error_of(15, options(WindowRule::second_half_bos, 8)), "");
  EXPECT_THAT(error_of(7, options(WindowRule::concat_no_bos, 8)), HasSubstr("7 tokens"));
  EXPECT_THAT(error_of(0, options(WindowRule::rolling_prefix, 8)), HasSubstr("0 tokens"));
  WindowOptions no_bos = options(WindowRule::window_bos, 8);
  no_bos.bos.reset();
  EXPECT_THAT(error_of(100, no_bos), HasSubstr("needs a BOS"));
  EXPECT_THAT(error_of(100, options(WindowRule::strided, 8, 9)), HasSubstr("stride 9"));
  EXPECT_THAT(error_of(100, options(WindowRule::concat_no_bos, 8, 4)), HasSubstr("strided only"));
  EXPECT_THAT(error_of(100, options(WindowRule::concat_no_bos, 1)), HasSubstr("context 1"));
  try {
    parse_window_rule("concat");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("rolling_prefix"));
  }
}

TEST(WindowsTest, TheHashIsThatOfLittleEndianIds) {
  const std::vector<int32_t> tokens{1, 256};
  WindowOptions o = options(WindowRule::rolling_prefix, 4);
  // printf '\1\0\0\0\0\1\0\0' | sha256sum
  EXPECT_EQ(WindowPlan(tokens, o).token_hash(),
            "242045e2f1bb37769b514f182fd91b3d215324cb57f187cced1e9c62921dbac3");
}

}  // namespace
}  // namespace fewbit
