#include "fewbit/text/added_tokens.h"

#include <algorithm>

#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !is_word_character(last_code_point(text.substr(0, begin)).value)) &&
         (end == text.size() || !is_word_character(decode_utf8(text, end).value));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::vector<std::pair<std::string_view, int32_t>> strings;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    strings.emplace_back(tokens_[i].content, static_cast<int32_t>(i));
  }
  trie_ = ByteTrie(std::move(strings));
}

void AddedTokens::cut(std::string_view text, bool parse_special,
                      const std::function<void(TextRange)>& on_text,
                      const std::function<void(TokenId)>& on_token) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    if (!trie_.may_start(static_cast<uint8_t>(text[i]))) {
      ++i;
      continue;
    }
    const AddedToken* match = nullptr;
    size_t end = i;
    trie_.for_each_prefix(text.substr(i), [&](size_t length, int32_t index) {
      const AddedToken& token = tokens_[static_cast<size_t>(index)];
      if (token.special && !parse_special) return;
      match = &token;
      end = i + length;
    });
    if (match == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i;
    i = end;
    if (match->single_word && !stands_alone(text, begin, end)) continue;
    while (match->lstrip && begin > done) {
      const CodePoint before = last_code_point(text.substr(0, begin));
      if (!is_white_space(before.value)) break;
      begin -= before.length;
    }
    while (match->rstrip && end < text.size()) {
      const CodePoint after = decode_utf8(text, end);
      if (!is_white_space(after.value)) break;
      end += after.length;
    }
    if (done < begin) on_text({done, begin});
    on_token(match->id);
    done = i = end;
  }
  if (done < text.size()) on_text({done, text.size()});
}

}  // namespace fewbit
