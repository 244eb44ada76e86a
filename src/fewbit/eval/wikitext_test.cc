#include "fewbit/eval/wikitext.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "fewbit/base/file.h"

namespace fewbit {
namespace {

constexpr const char* kText =
    " \n = Cat = \n \n The cat ( Felis ) is 1 @,@ 000 years old . \n = = Food = = \n \n"
    " It eats \" fish \" , and 's food . \n = Dog = \n \n A dog . \n";

TEST(WikitextTest, FileFormDropsOneFinalNewline) {
  EXPECT_EQ(file_form("a\n\n"), "a\n");
  EXPECT_EQ(file_form("a"), "a");
}

TEST(WikitextTest, HubFormJoinsRowsAndEmptiesBlankOnes) {
  EXPECT_EQ(hub_form(" \n = A = \n \n b \n"), "\n\n = A = \n\n\n\n\n b \n");
}

TEST(WikitextTest, ArticlesOpenAtTitlesOfTheFirstLevel) {
  const auto articles = wikitext_articles(kText);
  ASSERT_EQ(articles.size(), 2u);
  EXPECT_EQ(articles[0].original.substr(0, 8), " = Cat =");
  EXPECT_NE(articles[0].original.find("= = Food = ="), std::string::npos);
  EXPECT_EQ(articles[1].original, " = Dog = \n \n A dog . \n");
}

TEST(WikitextTest, DetokeniserTightensPunctuation) {
  EXPECT_EQ(wikitext_detokenise("the cats ' 1 @,@ 000 well @-@ fed ( or not ) cats , \" fat \" ."),
            "the cats' 1,000 well-fed (or not) cats, \"fat\" .");
  EXPECT_EQ(wikitext_detokenise(" = = Food = = \n"), " == Food ==\n");
}

TEST(WikitextTest, PiecesCountTheEmptyOnesAtTheEnds) {
  EXPECT_EQ(whitespace_pieces("a b"), 2u);
  EXPECT_EQ(whitespace_pieces(" a  b\n"), 4u);
  EXPECT_EQ(whitespace_pieces("a\xc2\xa0z"), 2u);
  EXPECT_EQ(whitespace_pieces(""), 1u);
}

TEST(WikitextTest, MetricsNormaliseByTheOriginal) {
  const std::vector<std::string_view> originals{"a bc", "def"};
  const DocumentMetrics m = document_metrics(7 * std::log(2.0), originals);
  EXPECT_DOUBLE_EQ(m.bits_per_byte, 1);
  EXPECT_DOUBLE_EQ(m.byte_perplexity, 2);
  EXPECT_NEAR(m.word_perplexity, std::exp2(7.0 / 3), 1e-12);
}

// Published counts and hash of the WikiText-2 raw test file; it is not part of this repository.
TEST(WikitextTest, ReproducesThePublishedArticles) {
  const char* path = std::getenv("FEWBIT_WIKITEXT2_TEST");
  if (path == nullptr) GTEST_SKIP() << "FEWBIT_WIKITEXT2_TEST names no wiki.test.raw";
  const std::string text = read_text_file(path);
  EXPECT_EQ(hub_form(text).size(), 1296370u);
  const auto articles = wikitext_articles(text);
  ASSERT_EQ(articles.size(), 62u);
  std::string joined;
  std::vector<std::string_view> originals;
  for (const WikitextArticle& article : articles) {
    if (!joined.empty()) joined += '\0';
    joined += article.detokenised;
    originals.push_back(article.original);
  }
  const DocumentMetrics m = document_metrics(1, originals);
  EXPECT_EQ(m.words, 241335u);
  EXPECT_EQ(m.bytes, 1290527u);
  EXPECT_EQ(joined.size() - 61, 1240466u);
  EXPECT_EQ(sha256_hex(joined), "b0ae50e166add20959a5406d9b3c99fe1f23819ec0a10149047149434fb85d81");
}

}  // namespace
}  // namespace fewbit
