#include "fewbit/testing/fixture.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "fewbit/base/error.h"

namespace fewbit::testing {
namespace {

std::vector<std::filesystem::path> entries(std::string_view name, auto&& wanted) {
  const std::filesystem::path folder = fixture_root() / name;
  std::vector<std::filesystem::path> found;
  if (std::filesystem::is_directory(folder)) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (wanted(entry)) found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  if (found.empty()) found.push_back(folder / "absent");
  return found;
}

}  // namespace

std::filesystem::path test_data_root() { return FEWBIT_TEST_DATA; }

std::filesystem::path fixture_root() {
  const char* folder = std::getenv("FEWBIT_FIXTURES");
  return folder && *folder ? std::filesystem::path(folder) : test_data_root();
}

std::vector<std::filesystem::path> fixture_cases(std::string_view name, std::string_view suffix) {
  return entries(name, [&](const std::filesystem::directory_entry& entry) {
    return entry.is_regular_file() && entry.path().filename().string().ends_with(suffix);
  });
}

std::vector<std::filesystem::path> fixture_folders(std::string_view name) {
  return entries(
      name, [](const std::filesystem::directory_entry& entry) { return entry.is_directory(); });
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "fewbit-test-XXXXXX").string();
  require(::mkdtemp(name.data()) != nullptr, "cannot create a temporary directory {}", name);
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string fixture_label(const ::testing::TestParamInfo<std::filesystem::path>& info) {
  std::string label =
      info.param.parent_path().filename().string() + "_" + info.param.filename().string();
  for (char& c : label) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return label;
}

}  // namespace fewbit::testing
