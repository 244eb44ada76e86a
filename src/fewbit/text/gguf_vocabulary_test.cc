#include "fewbit/text/gguf_vocabulary.h"

#include <gtest/gtest.h>

#include <sstream>

#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

constexpr EncodeOptions kPlain = {.add_special = false, .parse_special = true};

// Texts and ids that stand beside NAME.gguf: NAME.cases.json with {text, ids}, and NAME.gguf.inp
// with NAME.gguf.out, as llama.cpp's vocabulary tests have them.
struct Case {
  std::string text;
  std::vector<TokenId> ids;
};

std::vector<Case> json_cases(const std::filesystem::path& path) {
  std::vector<Case> cases;
  for (const Json& item : parse_json(read_text_file(path), path.string())) {
    cases.push_back({item["text"].get<std::string>(), item["ids"].get<std::vector<TokenId>>()});
  }
  return cases;
}

std::vector<Case> text_cases(const std::filesystem::path& input,
                             const std::filesystem::path& output) {
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  std::vector<Case> cases;
  const std::string texts = read_text_file(input);
  std::istringstream lines(read_text_file(output));
  for (size_t begin = 0; begin < texts.size();) {
    const size_t end = texts.find(kSeparator, begin);
    if (end == std::string::npos) break;
    Case item{texts.substr(begin, end - begin), {}};
    std::string line;
    std::getline(lines, line);
    std::istringstream ids(line);
    for (TokenId id; ids >> id;) item.ids.push_back(id);
    cases.push_back(std::move(item));
    begin = end + kSeparator.size();
  }
  return cases;
}

FEWBIT_FIXTURE_TEST(GgufTokenizerFixture, "tokenizer", ".gguf") {
  const Tokenizer tokenizer = make_tokenizer(read_gguf_vocabulary(GgufFile::open(path())));
  std::filesystem::path json = path(), input = path(), output = path();
  json.replace_extension(".cases.json");
  input += ".inp";
  output += ".out";
  std::vector<Case> cases;
  if (std::filesystem::exists(json)) cases = json_cases(json);
  if (std::filesystem::exists(input)) {
    for (Case& item : text_cases(input, output)) cases.push_back(std::move(item));
  }
  EXPECT_FALSE(cases.empty());
  for (const Case& item : cases) {
    SCOPED_TRACE(item.text);
    EXPECT_EQ(tokenizer.encode(item.text, kPlain), item.ids);
  }
}

}  // namespace
}  // namespace fewbit
