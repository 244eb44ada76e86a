#include "fewbit/text/token_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/base/json.h"
#include "fewbit/base/threads.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/text/byte_tokenizer.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

Tokenizer bytes_with_end() {
  const std::vector<std::string> special = {"<|endoftext|>"};
  return Tokenizer::from_json(byte_tokenizer_json(special))
      .with_config(parse_json(tokenizer_config_json(special[0]), "config"));
}

TEST(TokenStreamTest, HoldsIdsInAsFewBytesAsTheVocabularyAllows) {
  const std::vector<TokenId> ids = {0, 65535, 7};
  const TokenStream narrow(ids, 65536), wide(ids, 65537);
  EXPECT_EQ(narrow.bytes_per_id(), 2u);
  EXPECT_EQ(wide.bytes_per_id(), 4u);
  for (const TokenStream& stream : {narrow, wide}) {
    EXPECT_EQ(stream.size(), 3u);
    EXPECT_EQ(stream[1], 65535);
    EXPECT_EQ(stream.to_vector(), ids);
    std::vector<TokenId> tail(2);
    stream.copy(1, tail);
    EXPECT_THAT(tail, ElementsAre(65535, 7));
    EXPECT_THROW(stream.copy(2, tail), Error);
  }
  EXPECT_THROW(TokenStream(ids, 65535), Error);
  EXPECT_EQ(TokenStream().size(), 0u);
}

TEST(TokenStreamTest, DocumentsEndWithTheTokenizersEnd) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(directory / "a", "ab\n<|endoftext|>\nc");
  write_file_atomically(directory / "b", "d");
  const std::vector<std::filesystem::path> paths = {directory / "a", directory / "b"};
  EXPECT_THAT(tokenize_corpus(bytes_with_end(), paths, {}).to_vector(),
              ElementsAre('a', 'b', 256, 'c', 256, 'd', 256));
  EXPECT_THAT(tokenize_corpus(bytes_with_end(), paths, {.end_documents = false}).to_vector(),
              ElementsAre('a', 'b', 'c', 'd'));
  EXPECT_THROW(tokenize_corpus(Tokenizer::from_json(byte_tokenizer_json()), paths, {}), Error);
}

TEST(TokenStreamTest, TheFileHoldsWhatTheMemoryWouldAndIsMadeOnce) {
  const testing::TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 3000; ++i) text += fmt::format("document {}\n<|endoftext|>\n", i);
  write_file_atomically(directory / "text", text);
  const std::vector<std::filesystem::path> paths = {directory / "text"};
  const Tokenizer tokenizer = bytes_with_end();
  const TokenStream memory = tokenize_corpus(tokenizer, paths, {});
  CorpusTokens options;
  options.cache_directory = directory / "cache";
  const TokenStream file = tokenize_corpus(tokenizer, paths, options);
  EXPECT_EQ(file.to_vector(), memory.to_vector());
  EXPECT_EQ(file.sha256(), memory.sha256());
  const auto files = [&] {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(options.cache_directory)) {
      found.push_back(entry.path());
    }
    return found;
  };
  ASSERT_EQ(files().size(), 1u);
  const auto made = std::filesystem::last_write_time(files()[0]);
  EXPECT_EQ(tokenize_corpus(tokenizer, paths, options).to_vector(), memory.to_vector());
  EXPECT_EQ(std::filesystem::last_write_time(files()[0]), made);
  // Another text, another file.
  write_file_atomically(directory / "text", text + "more");
  EXPECT_GT(tokenize_corpus(tokenizer, paths, options).size(), memory.size());
  EXPECT_EQ(files().size(), 2u);
}

TEST(TokenStreamTest, DoesNotDependOnTheNumberOfThreads) {
  const testing::TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += fmt::format("{}\n<|endoftext|>\n", i);
  write_file_atomically(directory / "text", text);
  const std::vector<std::filesystem::path> paths = {directory / "text"};
  const size_t threads = thread_count();
  set_thread_count(1);
  const std::string one = tokenize_corpus(bytes_with_end(), paths, {}).sha256();
  set_thread_count(4);
  EXPECT_EQ(tokenize_corpus(bytes_with_end(), paths, {}).sha256(), one);
  set_thread_count(threads);
}

TEST(TokenStreamTest, DamagedFilesAreErrors) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(directory / "text", "abc");
  const std::vector<std::filesystem::path> paths = {directory / "text"};
  CorpusTokens options;
  options.cache_directory = directory / "cache";
  tokenize_corpus(bytes_with_end(), paths, options);
  const auto path = std::filesystem::directory_iterator(options.cache_directory)->path();
  const std::string good = read_text_file(path);
  for (size_t size = 0; size < good.size(); ++size) {
    write_file_atomically(directory / "bad", good.substr(0, size));
    EXPECT_THAT([&] { TokenStream::open(directory / "bad"); },
                ThrowsMessage<Error>(HasSubstr("bad")));
  }
  // The count and the width, then the data, no longer agree.
  for (const size_t offset : {good.size() - 80, good.size() - 72}) {
    std::string bad = good;
    ++bad[offset];
    write_file_atomically(directory / "bad", bad);
    EXPECT_THROW(TokenStream::open(directory / "bad"), Error);
  }
  write_file_atomically(directory / "bad", "x" + good);
  EXPECT_THROW(TokenStream::open(directory / "bad"), Error);
}

}  // namespace
}  // namespace fewbit
