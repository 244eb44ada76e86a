#include "fewbit/text/stream_decoder.h"

#include <gtest/gtest.h>

#include "fewbit/base/file.h"
#include "fewbit/base/random.h"
#include "fewbit/testing/fixture.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

FEWBIT_FIXTURE_TEST(StreamDecoderFixture, "tokenizer", ".tokenizer.json") {
  const Tokenizer tokenizer = Tokenizer::from_json(read_text_file(path()));
  RandomStream random(7, "stream");
  for (int round = 0; round < 50; ++round) {
    // Any ids: broken characters and runs of byte tokens among them, and some that are none.
    std::vector<TokenId> ids;
    for (uint64_t n = random.below(150); n > 0; --n) {
      ids.push_back(static_cast<TokenId>(random.below(tokenizer.vocabulary_size() + 2)));
    }
    for (const bool skip_special : {true, false}) {
      StreamDecoder decoder(tokenizer, {}, skip_special);
      std::string text;
      for (const TokenId id : ids) {
        const std::string piece = decoder.push(id);
        EXPECT_EQ(valid_utf8_prefix(piece), piece.size());
        text += piece;
      }
      text += decoder.finish();
      EXPECT_EQ(text, tokenizer.decode(ids, skip_special));
      EXPECT_EQ(decoder.finish(), "");
    }
  }
}

FEWBIT_FIXTURE_TEST(StreamDecoderContextFixture, "tokenizer", ".tokenizer.json") {
  const Tokenizer tokenizer = Tokenizer::from_json(read_text_file(path()));
  const std::string prompt = "The quick brown fox", rest = " jumps over \xc3\xa9t\xc3\xa9.";
  const auto before = tokenizer.encode(prompt), all = tokenizer.encode(prompt + rest);
  StreamDecoder decoder(tokenizer, std::span(all).first(before.size()));
  std::string text;
  for (const TokenId id : std::span(all).subspan(before.size())) text += decoder.push(id);
  text += decoder.finish();
  EXPECT_EQ(tokenizer.decode(std::span(all).first(before.size())) + text, tokenizer.decode(all));
}

}  // namespace
}  // namespace fewbit
