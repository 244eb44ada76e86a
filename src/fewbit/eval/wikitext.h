// Text forms of WikiText: the strings that different programs make of one file before they tokenize
// it. Perplexities of different forms are not comparable.
//
//   file      the file as it is, one final newline dropped (llama.cpp)
//   hub       its lines as rows of the data set joined by "\n\n" (GPTQ, AWQ, QuaRot, ...); a row is
//             a line with its newline, or the empty string for a blank line
//   articles  split by article, detokenised, each scored alone (lm-evaluation-harness `wikitext`)
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/statistics.h"
#include "fewbit/eval/perplexity.h"

namespace fewbit {

std::string file_form(std::string_view text);
std::string hub_form(std::string_view text);

struct WikitextArticle {
  std::string original;     // Lines of the file joined by newlines.
  std::string detokenised;  // What the model reads.
};
// An article opens at a line "= Title =" (one equals sign a side).
std::vector<WikitextArticle> wikitext_articles(std::string_view text);
// " @-@ " -> "-", " , " -> ", ", brackets and quotes tightened, ...
std::string wikitext_detokenise(std::string_view article);

// Pieces of the text split at every run of white space, those at either end being empty and
// counted.
size_t whitespace_pieces(std::string_view text);

// Losses of the detokenised articles normalised by the words and bytes of the originals, which
// makes them comparable between tokenizers.
struct DocumentMetrics {
  double word_perplexity = 0, byte_perplexity = 0, bits_per_byte = 0;
  uint64_t words = 0, bytes = 0;
};
// `total_nll`: nats over all articles.
DocumentMetrics document_metrics(double total_nll, std::span<const std::string_view> originals);

}  // namespace fewbit
