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

TEST(ByteTokenizerTest, SpecialTokensFollowTheBytes) {
  const std::vector<std::string> special = {"<|endoftext|>", "<|pad|>"};
  const Tokenizer tokenizer =
      Tokenizer::from_json(byte_tokenizer_json(special))
          .with_config(parse_json(tokenizer_config_json(special[0]), "config"));
  EXPECT_EQ(tokenizer.vocabulary_size(), 258u);
  EXPECT_EQ(tokenizer.special().eos, 256);
  EXPECT_EQ(tokenizer.special().end_of_generation, std::vector<TokenId>{256});
  EXPECT_EQ(tokenizer.encode("a<|pad|>"), (std::vector<TokenId>{'a', 257}));
  EXPECT_EQ(tokenizer.encode("<|pad|>", {.parse_special = false}).size(), 7u);
}

}  // namespace
}  // namespace fewbit
