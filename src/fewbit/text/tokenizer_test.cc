#include "fewbit/text/tokenizer.h"

#include <gtest/gtest.h>

#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

// {text, ids, ids_no_special, tokens, decoded_*} beside NAME.tokenizer.json.
FEWBIT_FIXTURE_TEST(TokenizerJsonFixture, "tokenizer", "-style.cases.json") {
  std::string name = path().filename().string();
  name.resize(name.size() - std::string_view(".cases.json").size());
  const auto tokenizer_path = path().parent_path() / (name + ".tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::from_json(read_text_file(tokenizer_path));
  for (const Json& item : parse_json(read_text_file(path()), "cases")) {
    const auto text = item["text"].get<std::string>();
    SCOPED_TRACE(text);
    const auto ids = item["ids"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer.encode(text), ids);
    EXPECT_EQ(tokenizer.encode(text, {.add_special = false}),
              item["ids_no_special"].get<std::vector<TokenId>>());
    EXPECT_EQ(tokenizer.decode(ids), item["decoded_skip_special"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, false), item["decoded_keep_special"].get<std::string>());
    for (const TokenId id : ids) EXPECT_LT(static_cast<size_t>(id), tokenizer.vocabulary_size());
  }
}

}  // namespace
}  // namespace fewbit
