// Byte-level tokenizers made here, as tokenizer.json files that Hugging Face `tokenizers` opens and
// Tokenizer::from_json reads back.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fewbit/text/vocabulary.h"

namespace fewbit {

// Byte-level BPE: ids 0 to 255 are the bytes; each merge joins two tokens to the next id, or to the
// token that has that text already; then come the special tokens. `split`: GPT-2's pattern cuts the
// text before merging; otherwise it is one piece.
std::string byte_level_tokenizer_json(std::span<const std::pair<TokenId, TokenId>> merges,
                                      std::span<const std::string> special_tokens, bool split);

// The byte-level tokenizer of small models: the id of a token is its byte, special tokens follow
// from 256 on.
std::string byte_tokenizer_json(std::span<const std::string> special_tokens = {});

// tokenizer_config.json for a tokenizer whose `end_token` ends (and, at generation, begins) a text.
std::string tokenizer_config_json(std::string_view end_token);

}  // namespace fewbit
