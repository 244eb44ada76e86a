#include "fewbit/text/gguf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <sstream>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

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

// <unk>, <s>, </s>, the 256 bytes, then characters and words with scores.
GgufVocabulary sentencepiece() {
  GgufVocabulary vocabulary;
  vocabulary.architecture = "llama";
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  const auto add = [&](const std::string& text, int32_t type, float score) {
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(type);
    vocabulary.scores.push_back(score);
  };
  add("<unk>", 2, 0);
  add("<s>", 3, 0);
  add("</s>", 3, 0);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 6, 0);
  float score = -1;
  for (const char* text :
       {"ab", "bc", "\u2581ab", "abc", "s>", "<s", "a", "b", "c", "\u2581", "s", ">"}) {
    add(text, 1, score--);
  }
  add("  ", 4, -1000);
  return vocabulary;
}

TokenId id_of(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.find(text).value_or(-1);
}

TEST(GgufVocabularyTest, SentencePieceMergesByScoreAndFallsBackToBytes) {
  const Tokenizer tokenizer = make_tokenizer(sentencepiece());
  const auto id = [&](std::string_view text) { return id_of(tokenizer, text); };
  // BOS by default, a space in front; "ab" beats "bc", then "\u2581ab" beats "abc".
  EXPECT_THAT(tokenizer.encode("abc"), ElementsAre(1, id("\u2581ab"), id("c")));
  EXPECT_THAT(tokenizer.encode("bcabc", kPlain), ElementsAre(id("\u2581"), id("bc"), id("abc")));
  // 'x' has no token; user-defined spaces are cut out as they are, and a space comes after them.
  EXPECT_THAT(tokenizer.encode("x  a", kPlain),
              ElementsAre(id("\u2581"), id("<0x78>"), id("  "), id("\u2581"), id("a")));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("abc\xc3\xa9 x")), "abc\xc3\xa9 x");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("abc"), false), "<s> abc");
  EXPECT_EQ(tokenizer.token_bytes(id("\u2581ab")), " ab");
  EXPECT_EQ(tokenizer.token_bytes(id("<0x0A>")), "\n");
}

TEST(GgufVocabularyTest, ControlTokensCannotBeWrittenByStrangers) {
  const Tokenizer tokenizer = make_tokenizer(sentencepiece());
  EXPECT_THAT(tokenizer.encode("<s>", kPlain), ElementsAre(1));
  // Though its pieces could be merged to "<s>".
  for (const TokenId id : tokenizer.encode("<s>", {.add_special = false, .parse_special = false})) {
    EXPECT_NE(tokenizer.type(id), TokenType::control);
  }
}

TEST(GgufVocabularyTest, SpacePrefixAndBosAreWhatTheKeysSay) {
  GgufVocabulary vocabulary = sentencepiece();
  vocabulary.add_space_prefix = false;
  vocabulary.add_bos = false;
  vocabulary.add_eos = true;
  const Tokenizer tokenizer = make_tokenizer(vocabulary);
  EXPECT_THAT(tokenizer.encode("ab"), ElementsAre(id_of(tokenizer, "ab"), 2));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" ab")), " ab");
}

// Merges from characters that are no tokens themselves.
TEST(GgufVocabularyTest, CharactersWithoutATokenCanStillBeMerged) {
  GgufVocabulary vocabulary = sentencepiece();
  vocabulary.tokens.push_back("xy");
  vocabulary.types.push_back(1);
  vocabulary.scores.push_back(-50);
  const Tokenizer tokenizer = make_tokenizer(vocabulary);
  const auto id = [&](std::string_view text) { return id_of(tokenizer, text); };
  EXPECT_THAT(tokenizer.encode("xyx", kPlain), ElementsAre(id("\u2581"), id("xy"), id("<0x78>")));
}

GgufVocabulary byte_level() {
  GgufVocabulary vocabulary;
  vocabulary.architecture = "llama";
  vocabulary.model = "gpt2";
  vocabulary.pre = "smollm";
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(to_utf8(byte_symbol(static_cast<uint8_t>(byte))));
  }
  vocabulary.tokens.insert(vocabulary.tokens.end(), {"12", "<|im_end|>", "\u2581 \xc3\xa9"});
  vocabulary.types.assign(vocabulary.tokens.size(), 1);
  vocabulary.types[257] = 3;
  vocabulary.types[258] = 4;
  vocabulary.merges = {"1 2"};
  vocabulary.eos = 0;
  return vocabulary;
}

TEST(GgufVocabularyTest, ByteLevelVocabulariesCutAsTheirPreTokenizerSays) {
  GgufVocabulary vocabulary = byte_level();
  EXPECT_THAT(make_tokenizer(vocabulary).encode("12"), ElementsAre('1', '2'));
  vocabulary.pre = "gpt-2";
  const Tokenizer tokenizer = make_tokenizer(vocabulary);
  EXPECT_THAT(tokenizer.encode("12<|im_end|>"), ElementsAre(256, 257));
  EXPECT_THAT(tokenizer.special().end_of_generation, ElementsAre(0, 257));
  // User-defined tokens are text as it is, whatever their characters mean in byte-level tokens.
  EXPECT_THAT(tokenizer.encode("\u2581 \xc3\xa9"), ElementsAre(258));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{258}), "\u2581 \xc3\xa9");
}

TEST(GgufVocabularyTest, EveryKnownPreTokenizerCompiles) {
  for (const std::string& name : gguf_pre_tokenizer_names()) {
    GgufVocabulary vocabulary = byte_level();
    vocabulary.pre = name;
    vocabulary.bos = 1;
    const Tokenizer tokenizer = make_tokenizer(vocabulary);
    const std::string text = "It's 12345 \xe6\xbc\xa2\xe5\xad\x97\n\n  and\t(more)... ";
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)).substr(0, 200),
              (tokenizer.prefix().empty() ? "" : tokenizer.token_bytes(1)) + text)
        << name;
  }
}

TEST(GgufVocabularyTest, ErrorsNameTheKey) {
  using Change = std::function<void(GgufVocabulary&)>;
  const auto expect_fault = [](GgufVocabulary vocabulary, const Change& change, const char* name) {
    change(vocabulary);
    EXPECT_THAT([&] { make_tokenizer(vocabulary); }, ThrowsMessage<Error>(HasSubstr(name)));
  };
  expect_fault(
      byte_level(), [](auto& v) { v.pre = "nobody"; }, "tokenizer.ggml.pre");
  expect_fault(
      byte_level(), [](auto& v) { v.pre = ""; }, "tokenizer.ggml.pre");
  expect_fault(
      byte_level(), [](auto& v) { v.model = "bert"; }, "tokenizer.ggml.model");
  expect_fault(
      byte_level(), [](auto& v) { v.tokens.clear(); }, "tokenizer.ggml.tokens");
  expect_fault(
      byte_level(), [](auto& v) { v.tokens[3] = "\xff"; }, "tokenizer.ggml.tokens");
  expect_fault(
      byte_level(), [](auto& v) { v.types.pop_back(); }, "tokenizer.ggml.token_type");
  expect_fault(
      byte_level(), [](auto& v) { v.types[0] = 9; }, "tokenizer.ggml.token_type");
  expect_fault(
      byte_level(), [](auto& v) { v.merges = {"1"}; }, "tokenizer.ggml.merges");
  expect_fault(
      byte_level(), [](auto& v) { v.merges = {"2 1"}; }, "tokenizer.ggml.merges");
  expect_fault(
      byte_level(), [](auto& v) { v.merges = {""}; }, "tokenizer.ggml.merges");
  expect_fault(
      byte_level(), [](auto& v) { v.eos = 9999; }, "tokenizer.ggml.eos_token_id");
  expect_fault(
      byte_level(), [](auto& v) { v.add_bos = true; }, "tokenizer.ggml.add_bos_token");
  expect_fault(
      sentencepiece(), [](auto& v) { v.scores.pop_back(); }, "tokenizer.ggml.scores");
  expect_fault(
      sentencepiece(), [](auto& v) { v.scores[260] = NAN; }, "tokenizer.ggml.scores");
}

}  // namespace
}  // namespace fewbit
