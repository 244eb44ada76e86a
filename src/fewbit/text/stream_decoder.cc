#include "fewbit/text/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

// Decoding looks at a token's neighbours only to see whether it is the first of a text.
constexpr size_t kContext = 4;
// Decoded again with every token.
constexpr size_t kMaxWindow = 32;

}  // namespace

StreamDecoder::StreamDecoder(Tokenizer tokenizer, std::span<const TokenId> context,
                             bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      ids_(context.begin(), context.end()) {
  std::erase_if(ids_, [&](TokenId id) { return !shows(id); });
  shorten();
}

bool StreamDecoder::shows(TokenId id) const {
  const TokenType type = tokenizer_.type(id);
  if (type == TokenType::unused && tokenizer_.token_text(id).empty()) return false;
  return !skip_special_ || (type != TokenType::control && type != TokenType::unknown);
}

// Keeps what the next tokens need; all of the text has been shown.
void StreamDecoder::shorten() {
  if (ids_.size() > kContext) ids_.erase(ids_.begin(), ids_.end() - kContext);
  shown_ = tokenizer_.decode(ids_, skip_special_).size();
}

std::string StreamDecoder::push(TokenId id) {
  if (!shows(id)) return {};
  ids_.push_back(id);
  // A byte token may yet turn out to be part of a run that is no UTF-8 as a whole.
  if (tokenizer_.type(id) == TokenType::byte) return {};
  const std::string text = tokenizer_.decode(ids_, skip_special_);
  static const std::string kReplacement = to_utf8(kReplacementCharacter);
  size_t certain = text.size();
  while (std::string_view(text).substr(0, certain).ends_with(kReplacement)) {
    certain -= kReplacement.size();
  }
  if (certain <= shown_) return {};
  std::string piece = text.substr(shown_, certain - shown_);
  shown_ = certain;
  if (certain == text.size() && ids_.size() > kMaxWindow) shorten();
  return piece;
}

std::string StreamDecoder::finish() {
  const std::string text = tokenizer_.decode(ids_, skip_special_);
  std::string piece = text.substr(std::min(shown_, text.size()));
  shown_ = text.size();
  return piece;
}

}  // namespace fewbit
