#include "fewbit/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/text/byte_tokenizer.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

using Ids = std::vector<TokenId>;

// {text, ids, ids_no_special, tokens, decoded_*} beside NAME.tokenizer.json.
FEWBIT_FIXTURE_TEST(TokenizerJsonFixture, "tokenizer", "-style.cases.json") {
  std::string name = path().filename().string();
  name.resize(name.size() - std::string_view(".cases.json").size());
  const auto tokenizer_path = path().parent_path() / (name + ".tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::from_json(read_text_file(tokenizer_path));
  for (const Json& item : parse_json(read_text_file(path()), "cases")) {
    const auto text = item["text"].get<std::string>();
    SCOPED_TRACE(text);
    const auto ids = item["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text), ids);
    EXPECT_EQ(tokenizer.encode(text, {.add_special = false}), item["ids_no_special"].get<Ids>());
    EXPECT_EQ(tokenizer.decode(ids), item["decoded_skip_special"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, false), item["decoded_keep_special"].get<std::string>());
    for (const TokenId id : ids) EXPECT_LT(static_cast<size_t>(id), tokenizer.vocabulary_size());
  }
}

// Texts of any code points, and of words, spaces and control tokens.
std::vector<std::string> odd_texts(size_t count) {
  const std::vector<std::string> parts = {" ",
                                          "  ",
                                          "\n",
                                          "\r\n",
                                          "\t",
                                          "a",
                                          "The",
                                          " the",
                                          "'s",
                                          "'S",
                                          "1234",
                                          "\xc3\xa9",
                                          "e\xcc\x81",
                                          "\xe6\xbc\xa2\xe5\xad\x97",
                                          "\xf0\x9f\x99\x82",
                                          "\xe2\x80\x8d",
                                          "\xef\xbb\xbf",
                                          "\xe2\x96\x81",
                                          "\xc4\xa0",
                                          "\xe1\xa0\x8e",
                                          "\xc2\xa0",
                                          std::string(1, '\0'),
                                          "<0x0A>",
                                          "<s>",
                                          "<|endoftext|>",
                                          "\xef\xbf\xbd",
                                          "\xf4\x8f\xbf\xbf",
                                          "...",
                                          "$",
                                          "\x7f"};
  RandomStream random(11, "texts");
  std::vector<std::string> texts = {""};
  while (texts.size() < count) {
    std::string text;
    for (uint64_t n = random.below(30); n > 0; --n) {
      if (random.below(5) == 0) {
        auto point = static_cast<char32_t>(random.below(0x110000 - 0x800));
        append_utf8(text, point < 0xd800 ? point : point + 0x800);
      } else {
        text += parts[random.below(parts.size())];
      }
    }
    texts.push_back(text);
  }
  return texts;
}

FEWBIT_FIXTURE_TEST(TokenizerRoundTripFixture, "tokenizer", ".tokenizer.json") {
  const std::string json = read_text_file(path());
  const Tokenizer tokenizer = Tokenizer::from_json(json);
  const Json file = parse_json(json, "tokenizer");
  // Without a normalizer, byte-level tokenizers lose nothing.
  const bool lossless = file["decoder"]["type"] == "ByteLevel" && file["normalizer"].is_null();
  for (const std::string& text : odd_texts(400)) {
    SCOPED_TRACE(text);
    const Ids ids = tokenizer.encode(text, {.add_special = false});
    if (lossless) {
      EXPECT_EQ(tokenizer.decode(ids, false), text);
    }
    std::string bytes;
    for (const TokenId id : ids) {
      ASSERT_LT(static_cast<size_t>(id), tokenizer.vocabulary_size());
      ASSERT_NE(tokenizer.type(id), TokenType::unused);
      bytes += tokenizer.token_bytes(id);
    }
    if (lossless) {
      EXPECT_EQ(bytes, text);
    }
    const std::string decoded = tokenizer.decode(ids);
    EXPECT_EQ(valid_utf8_prefix(decoded), decoded.size());
    // A text of strangers has no control tokens.
    for (const TokenId id :
         tokenizer.encode(text, {.add_special = false, .parse_special = false})) {
      EXPECT_NE(tokenizer.type(id), TokenType::control);
    }
  }
}

FEWBIT_FIXTURE_TEST(TokenizerCacheFixture, "tokenizer", ".tokenizer.json") {
  const std::string json = read_text_file(path());
  const Tokenizer used = Tokenizer::from_json(json);
  const std::vector<std::string> texts = odd_texts(200);
  for (const std::string& text : texts) used.encode(text);
  std::vector<Ids> on_threads(texts.size());
  const size_t threads = thread_count();
  set_thread_count(4);
  parallel_for(texts.size(), [&](size_t i) { on_threads[i] = used.encode(texts[i]); });
  set_thread_count(threads);
  for (size_t i = 0; i < texts.size(); ++i) {
    if (i % 20 == 0) {
      EXPECT_EQ(Tokenizer::from_json(json).encode(texts[i]), on_threads[i]);
    }
    EXPECT_EQ(used.encode(texts[i]), on_threads[i]);
  }
  EXPECT_EQ(Tokenizer::from_json(json).fingerprint(), used.fingerprint());
}

// A long piece takes the heap, a short one the scan.
FEWBIT_FIXTURE_TEST(TokenizerLongPieceFixture, "tokenizer", ".tokenizer.json") {
  Json file = parse_json(read_text_file(path()), path().string());
  if (file["model"]["type"] != "BPE") return;
  file["normalizer"] = file["pre_tokenizer"] = nullptr;
  file["model"]["ignore_merges"] = false;
  if (file["decoder"]["type"] == "ByteLevel") {
    file["pre_tokenizer"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  }
  const Tokenizer tokenizer = Tokenizer::from_json(file.dump());
  // No merge reaches over this character.
  const std::string border = "\xf0\x9f\x99\x82";
  const EncodeOptions plain{.add_special = false};
  std::string whole;
  Ids parts;
  for (const char* word : {"license", "the", "conditions", "derivative", "permission", "or"}) {
    for (int i = 0; i < 4; ++i) {
      const std::string part = word + border;
      const Ids ids = tokenizer.encode(part, plain);
      parts.insert(parts.end(), ids.begin(), ids.end());
      whole += part;
    }
  }
  EXPECT_EQ(tokenizer.encode(whole, plain), parts);
}

Json small_bpe() {
  return parse_json(R"({
    "added_tokens": [{"id": 8, "content": "<end>", "special": true, "normalized": false},
                     {"id": 9, "content": "ab", "special": false, "normalized": false}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "unk_token": "?", "vocab":
              {"?": 0, "a": 1, "b": 2, "c": 3, "bc": 4, "abc": 5, " ": 6, "cc": 7},
              "merges": ["b c", "a bc", "c c"]}})",
                    "test");
}

Tokenizer from(const Json& file) { return Tokenizer::from_json(file.dump()); }

TEST(TokenizerTest, MergesByRankAndLeftmostFirst) {
  Json file = small_bpe();
  file["added_tokens"].erase(1);
  EXPECT_THAT(from(file).encode("abcc"), ElementsAre(5, 3));
  EXPECT_THAT(from(file).encode("ccc"), ElementsAre(7, 3));
  EXPECT_THAT(from(file).encode("axb"), ElementsAre(1, 0, 2));
}

TEST(TokenizerTest, AddedTokensAreCutOutBeforeAnythingElse) {
  const Tokenizer tokenizer = from(small_bpe());
  EXPECT_THAT(tokenizer.encode("cabc<end>"), ElementsAre(3, 9, 3, 8));
  EXPECT_EQ(tokenizer.decode(Ids{3, 9, 8}), "cab");
  EXPECT_EQ(tokenizer.decode(Ids{3, 9, 8}, false), "cab<end>");
  // Written by a stranger, the control token is plain text; the other one still counts.
  EXPECT_THAT(tokenizer.encode("ab<end>", {.parse_special = false}), ElementsAre(9, 0, 0, 0, 0, 0));
}

TEST(TokenizerTest, AddedTokensTakeInWhiteSpaceAndStandAlone) {
  Json file = small_bpe();
  Json& token = file["added_tokens"][1];
  token["lstrip"] = token["rstrip"] = true;
  EXPECT_THAT(from(file).encode("a \t ab  b"), ElementsAre(1, 9, 2));
  token["lstrip"] = token["rstrip"] = false;
  token["single_word"] = true;
  EXPECT_THAT(from(file).encode("ab cab ab_ ab"), ElementsAre(9, 6, 3, 1, 2, 6, 1, 2, 0, 6, 9));
}

TEST(TokenizerTest, InvalidUtf8IsReadAsReplacementCharacters) {
  const Tokenizer tokenizer = Tokenizer::from_json(byte_tokenizer_json());
  for (const char* invalid : {"a\xff"
                              "b",
                              "a\xe6\xbc"
                              "b",
                              "a\xed\xa0\x80z", "\xc3", "\xf4\x90\x80\x80"}) {
    const std::string mended = replace_invalid_utf8(invalid);
    EXPECT_NE(mended, invalid);
    EXPECT_EQ(tokenizer.encode(invalid), tokenizer.encode(mended));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(invalid)), mended);
  }
}

TEST(TokenizerTest, IdsWithoutATokenStandForNothing) {
  const Tokenizer tokenizer = from(small_bpe());
  EXPECT_EQ(tokenizer.decode(Ids{1, -1, 10, 1'000'000, INT32_MIN, INT32_MAX, 2}), "ab");
  EXPECT_EQ(tokenizer.token_text(10), "");
  EXPECT_EQ(tokenizer.token_bytes(-1), "");
  EXPECT_EQ(tokenizer.type(10), TokenType::unused);
}

TEST(TokenizerTest, ConfigNamesSpecialTokens) {
  const Tokenizer plain = from(small_bpe());
  EXPECT_FALSE(plain.special().eos);
  const Tokenizer tokenizer = plain.with_config(
      {{"bos_token", {{"content", "<end>"}}}, {"eos_token", "<end>"}, {"add_bos_token", true}});
  EXPECT_EQ(tokenizer.special().eos, 8);
  EXPECT_THAT(tokenizer.special().end_of_generation, ElementsAre(8));
  EXPECT_THAT(tokenizer.encode("a"), ElementsAre(8, 1));
  EXPECT_NE(tokenizer.fingerprint(), plain.fingerprint());
  EXPECT_THAT(tokenizer.with_config({{"add_bos_token", false}}).encode("a"), ElementsAre(1));
  EXPECT_THAT(
      [&] {
        plain.with_config({{"eos_token", "<none>"}});
      },
      ThrowsMessage<Error>(HasSubstr("eos_token")));
  EXPECT_THAT(
      [&] {
        plain.with_config({{"add_eos_token", true}});
      },
      ThrowsMessage<Error>(HasSubstr("add_eos_token")));
}

// A change of the small tokenizer, and what its error must name.
struct Fault {
  const char* pointer;
  Json value;
  std::vector<const char*> named;
};

TEST(TokenizerTest, ErrorsNameTheKey) {
  const Json bomb = [] {
    Json value = {{"type", "NFC"}};
    for (int i = 0; i < 80; ++i) {
      value = {{"type", "Sequence"}, {"normalizers", Json::array({value})}};
    }
    return value;
  }();
  const std::vector<Fault> faults = {
      {"/model", nullptr, {"model", "object"}},
      {"/model/type", "WordPiece", {"model", "WordPiece", "Unigram"}},
      {"/model/vocab", Json::array(), {"model", "vocab"}},
      {"/model/vocab/a", -1, {"vocab['a']", "-1"}},
      {"/model/vocab/a", 2, {"vocab['", "stands for both"}},
      {"/model/vocab/a", 1e9, {"vocab['a']", "token id"}},
      {"/model/vocab/a", "1", {"vocab['a']"}},
      {"/model/merges/0", "b  c", {"merges[0]"}},
      {"/model/merges/1", "a d", {"merges[1]", "'d'"}},
      {"/model/merges/2", "c a", {"merges[2]", "'ca'"}},
      {"/model/merges", 3, {"merges"}},
      {"/model/unk_token", "!", {"unk_token", "!"}},
      {"/model/dropout", 0.1, {"dropout"}},
      {"/model/end_of_word_suffix", "</w>", {"end_of_word_suffix"}},
      {"/model/byte_fallback", "yes", {"byte_fallback"}},
      {"/added_tokens/0/id", 1, {"added_tokens[0]", "stands for both"}},
      {"/added_tokens/0/id", 1e12, {"added_tokens[0]", "id"}},
      {"/added_tokens/0/content", "a", {"added_tokens[0]", "'a'"}},
      {"/added_tokens/1", 5, {"added_tokens[1]"}},
      {"/normalizer", {{"type", "Precompiled"}}, {"normalizer", "Precompiled"}},
      {"/normalizer", {{"type", "Replace"}, {"content", ""}}, {"normalizer", "pattern"}},
      {"/normalizer",
       {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, 1}}},
       {"normalizers[1]"}},
      {"/normalizer", bomb, {"nested deeper"}},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Removed"}},
       {"pre_tokenizer", "pattern", "(a"}},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Removed"}},
       {"pre_tokenizer", "pattern"}},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Gone"}},
       {"behavior", "Gone", "Removed"}},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "__"}}, {"replacement", "__"}},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"prepend_scheme", "no"}}, {"prepend_scheme"}},
      {"/decoder", {{"type", "WordPiece"}}, {"decoder", "WordPiece"}},
      {"/decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}}, {"decoder", "start"}},
      {"/post_processor",
       {{"type", "TemplateProcessing"}, {"single", Json::array()}},
       {"post_processor", "single"}},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "<x>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", Json::object()}},
       {"single[0]", "<x>"}},
      {"/post_processor",
       {{"type", "BertProcessing"}, {"cls", {"<s>", 99}}, {"sep", {"<s>", 1}}},
       {"cls", "99"}},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.pointer);
    Json file = small_bpe();
    file[Json::json_pointer(fault.pointer)] = fault.value;
    try {
      from(file);
      ADD_FAILURE() << fault.value.dump();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("tokenizer.json"));
      for (const char* name : fault.named) EXPECT_THAT(error.what(), HasSubstr(name));
    }
  }
}

TEST(TokenizerTest, TextsThatGrowOutOfProportionAreErrors) {
  Json file = small_bpe();
  Json steps = Json::array();
  for (int i = 0; i < 40; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  EXPECT_THAT([&] { from(file).encode("a"); }, ThrowsMessage<Error>(HasSubstr("longer than")));
}

TEST(TokenizerTest, RunawayPatternsAreErrors) {
  Json file = small_bpe();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a|aa)+$"}}}, {"behavior", "Isolated"}};
  const Tokenizer tokenizer = from(file);
  // Every way to cut the run of a's is tried before the x refuses them all.
  const std::string text = std::string(2000, 'a') + "x";
  EXPECT_THROW(tokenizer.encode(text), Error);
}

TEST(TokenizerTest, LongTextsWithoutABorderAreEncodedInTime) {
  // One piece of a megabyte.
  Json file = small_bpe();
  file["added_tokens"] = Json::array();
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += "abc";
  EXPECT_EQ(from(file).encode(text), Ids(300'000, 5));
}

}  // namespace
}  // namespace fewbit
