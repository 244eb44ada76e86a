// Text files as the ids that a model reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/text/tokenizer.h"

namespace fewbit {

// The ids of a text, plain or .zst, in the form "file" or "hub" (wikitext.h), without BOS or EOS:
// window rules add what they need. Control tokens written in the text are plain text.
std::vector<int32_t> tokenize_text(const Tokenizer& tokenizer, const std::filesystem::path& path,
                                   std::string_view text_form);

// Documents of a text and what their losses are normalised by.
struct TokenizedText {
  std::vector<std::vector<int32_t>> documents;
  std::vector<std::string> originals;  // Form "articles" only: one a document.
};
// The same for every form: "file" and "hub" give one document, "articles" one an article.
TokenizedText tokenize_documents(const Tokenizer& tokenizer, std::string_view text,
                                 std::string_view text_form);

std::vector<std::string> text_form_names();

}  // namespace fewbit
