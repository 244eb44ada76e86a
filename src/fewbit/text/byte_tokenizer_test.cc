#include "fewbit/text/byte_tokenizer.h"

#include <gtest/gtest.h>

#include "fewbit/text/tokenizer.h"

namespace fewbit {
namespace {

TEST(ByteTokenizerTest, IdsAreTheBytesOfTheText) {
  const Tokenizer tokenizer = Tokenizer::from_json(byte_tokenizer_json());
  EXPECT_EQ(tokenizer.vocabulary_size(), 256u);
  const std::string text = "A caf\xc3\xa9, \xe2\x82\xac 5\n\tend.";
  const auto ids = tokenizer.encode(text);
  ASSERT_EQ(ids.size(), text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_EQ(ids[i], static_cast<unsigned char>(text[i]));
  }
  EXPECT_EQ(tokenizer.decode(ids), text);
}

}  // namespace
}  // namespace fewbit
