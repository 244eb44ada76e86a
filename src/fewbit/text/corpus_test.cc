#include "fewbit/text/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string compressed(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::vector<std::string> documents(const std::filesystem::path& path,
                                   DocumentOptions options = {}) {
  std::vector<std::string> found;
  for_each_document(path, options, [&](std::string&& text) { found.push_back(std::move(text)); });
  return found;
}

TEST(CorpusTest, PlainAndCompressedFilesGiveTheSameText) {
  const testing::TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += fmt::format("line {}\n", i % 1000 * 7919);
  write_file_atomically(directory / "a.txt", text);
  // Two frames one after the other, under a name that does not say so.
  write_file_atomically(directory / "b.txt",
                        compressed(text.substr(0, 1000)) + compressed(text.substr(1000)));
  write_file_atomically(directory / "c.txt.zst", compressed(text));
  EXPECT_EQ(read_text(directory / "a.txt"), text);
  EXPECT_EQ(read_text(directory / "b.txt"), text);
  EXPECT_EQ(read_text(directory / "c.txt"), text);
}

TEST(CorpusTest, AFrameMayEndWhereABlockDoes) {
  const testing::TemporaryDirectory directory;
  const std::string text(size_t{1} << 20, 'a');
  write_file_atomically(directory / "a", compressed(text));
  EXPECT_EQ(read_text(directory / "a"), text);
}

TEST(CorpusTest, EmptyFilesAreEmptyTexts) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(directory / "empty", "");
  write_file_atomically(directory / "frame", compressed(""));
  EXPECT_EQ(read_text(directory / "empty"), "");
  EXPECT_EQ(read_text(directory / "frame"), "");
  EXPECT_TRUE(documents(directory / "empty").empty());
}

TEST(CorpusTest, DamagedOversizedAndAbsentFilesAreErrors) {
  const testing::TemporaryDirectory directory;
  const std::string whole = compressed(std::string(100'000, 'a') + "tail");
  write_file_atomically(directory / "short", whole.substr(0, whole.size() - 3));
  write_file_atomically(directory / "big", whole);
  EXPECT_THAT([&] { read_text(directory / "short"); }, ThrowsMessage<Error>(HasSubstr("short")));
  EXPECT_THAT([&] { read_text(directory / "big", 100'000); },
              ThrowsMessage<Error>(HasSubstr("longer than 100000 bytes")));
  EXPECT_THAT([&] { read_text(directory / "none"); }, ThrowsMessage<Error>(HasSubstr("none.zst")));
}

TEST(CorpusTest, SeparatorLinesStandBetweenDocuments) {
  const testing::TemporaryDirectory directory;
  write_file_atomically(directory / "a",
                        "\n\none\n\n<|endoftext|>\n\n<|endoftext|>\r\ntwo <|endoftext|>\n"
                        "  three\n\n<|endoftext|>");
  EXPECT_THAT(documents(directory / "a"), ElementsAre("one", "two <|endoftext|>\n  three"));
  EXPECT_THAT(documents(directory / "a", {.separator = ""}).size(), 1u);
  EXPECT_THROW(documents(directory / "a", {.max_document_bytes = 8}), Error);
}

TEST(CorpusTest, DocumentsDoNotDependOnWhereBlocksEnd) {
  const testing::TemporaryDirectory directory;
  // A separator across the border of two blocks of 1 MiB.
  const std::string first((1 << 20) - 5, 'x');
  write_file_atomically(directory / "a", first + "\n<|endoftext|>\nlast\n");
  EXPECT_THAT(documents(directory / "a"), ElementsAre(first, "last"));
}

}  // namespace
}  // namespace fewbit
