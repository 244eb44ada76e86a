// Golden cases for tests.
//
// A fixture test runs over every case found in $FEWBIT_FIXTURES/<name>/ (default: the copies under
// tests/data), takes its parameters from the file, and so accepts new cases without a change:
//
//   FEWBIT_FIXTURE_TEST(RtnFixture, "rtn", ".safetensors") {
//     const SafetensorsFile file = SafetensorsFile::open(path());
//     ...
//   }
//
// A folder or case that is absent is skipped by name; one that cannot be read fails.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit::testing {

// $FEWBIT_FIXTURES, or the copies in this repository.
std::filesystem::path fixture_root();
// This repository's tests/data.
std::filesystem::path test_data_root();

// Sorted paths of the files in `name` whose names end in `suffix`; one path that does not exist
// stands for an absent or empty folder.
std::vector<std::filesystem::path> fixture_cases(std::string_view name, std::string_view suffix);
// Sorted sub-folders of `name`, in the same manner.
std::vector<std::filesystem::path> fixture_folders(std::string_view name);

// A fresh empty folder, removed with everything in it at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

class FixtureTest : public ::testing::TestWithParam<std::filesystem::path> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(GetParam())) {
      GTEST_SKIP() << "no fixture " << GetParam().string();
    }
  }
  const std::filesystem::path& path() const { return GetParam(); }
};

// Test-name form of a case's path.
std::string fixture_label(const ::testing::TestParamInfo<std::filesystem::path>& info);

}  // namespace fewbit::testing

#define FEWBIT_FIXTURE_TEST_OVER(suite, cases)                       \
  class suite : public ::fewbit::testing::FixtureTest {};            \
  INSTANTIATE_TEST_SUITE_P(Cases, suite, ::testing::ValuesIn(cases), \
                           ::fewbit::testing::fixture_label);        \
  TEST_P(suite, HoldsOnEveryCase)

// One test over the files of a fixture folder; the suite's name must hold "Fixture".
#define FEWBIT_FIXTURE_TEST(suite, name, suffix) \
  FEWBIT_FIXTURE_TEST_OVER(suite, ::fewbit::testing::fixture_cases(name, suffix))

// One test over the sub-folders of a fixture folder.
#define FEWBIT_FIXTURE_TEST_FOLDERS(suite, name) \
  FEWBIT_FIXTURE_TEST_OVER(suite, ::fewbit::testing::fixture_folders(name))
