// Any bytes are a tokenizer.json or a fewbit::Error, and a good one encodes and decodes any text.
//
// The input is the file, a NUL byte, and the text.
#include <string_view>

#include "fewbit/base/error.h"
#include "fewbit/text/stream_decoder.h"
#include "fewbit/text/tokenizer.h"
#include "fewbit/text/unicode.h"

namespace {

void use(const fewbit::Tokenizer& tokenizer, std::string_view text) {
  using namespace fewbit;
  for (const bool special : {true, false}) {
    const std::vector<TokenId> ids =
        tokenizer.encode(text, {.add_special = special, .parse_special = special});
    for (const TokenId id : ids) {
      if (tokenizer.type(id) == TokenType::unused) __builtin_trap();
      (void)tokenizer.token_bytes(id);
    }
    const std::string decoded = tokenizer.decode(ids, special);
    if (valid_utf8_prefix(decoded) != decoded.size()) __builtin_trap();
    StreamDecoder decoder(tokenizer);
    for (const TokenId id : ids) (void)decoder.push(id);
    (void)decoder.finish();
    if (tokenizer.encode(text, {.add_special = special, .parse_special = special}) != ids) {
      __builtin_trap();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), input.size());
  try {
    const auto tokenizer = fewbit::Tokenizer::from_json(input.substr(0, end));
    use(tokenizer, input.substr(std::min(end + 1, input.size())));
  } catch (const fewbit::Error&) {
  }
  return 0;
}
