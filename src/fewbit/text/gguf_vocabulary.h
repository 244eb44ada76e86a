// Tokenizers of GGUF files (the keys tokenizer.ggml.*).
//
// Two models: "gpt2", byte-level BPE with a pre-tokenizer that is only named, and "llama",
// SentencePiece BPE whose merges follow from the scores: the adjacent pair whose concatenation is
// a token with the highest score is merged first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/io/gguf.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {

struct GgufVocabulary {
  std::string architecture;  // general.architecture
  std::string model, pre;    // Empty if absent.
  std::vector<std::string> tokens;
  std::vector<float> scores;   // Empty, or one for each token.
  std::vector<int32_t> types;  // Empty (all normal), or one for each token.
  std::vector<std::string> merges;
  std::optional<TokenId> bos, eos, eot, unknown, padding;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

// Error: a key of another type, or a file without tokenizer ("no_vocab").
GgufVocabulary read_gguf_vocabulary(const GgufFile& file);

// Errors name the key; a missing or unknown `pre` is one, since any guess would degrade the model,
// except for the architectures that have only one (gpt2, gptneox).
Tokenizer make_tokenizer(const GgufVocabulary& vocabulary);

// The values of `pre` that are known.
std::vector<std::string> gguf_pre_tokenizer_names();

}  // namespace fewbit
