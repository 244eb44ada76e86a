// The byte-level tokenizer of small models trained here: 256 tokens, the id of a token is its byte.
#pragma once

#include <string>

namespace fewbit {

// As a tokenizer.json that Hugging Face `tokenizers` opens: byte-level BPE without merges and
// without a splitting pattern.
std::string byte_tokenizer_json();

}  // namespace fewbit
