#include "fewbit/eval/text_tokens.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/options.h"
#include "fewbit/eval/wikitext.h"
#include "fewbit/text/corpus.h"

namespace fewbit {
namespace {

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, {.add_special = false, .parse_special = false});
}

}  // namespace

std::vector<std::string> text_form_names() { return {"file", "hub", "articles"}; }

TokenizedText tokenize_documents(const Tokenizer& tokenizer, std::string_view text,
                                 std::string_view text_form) {
  TokenizedText result;
  if (text_form == "file") {
    result.documents.push_back(encode(tokenizer, file_form(text)));
  } else if (text_form == "hub") {
    result.documents.push_back(encode(tokenizer, hub_form(text)));
  } else if (text_form == "articles") {
    for (WikitextArticle& article : wikitext_articles(text)) {
      result.documents.push_back(encode(tokenizer, article.detokenised));
      result.originals.push_back(std::move(article.original));
    }
  } else {
    fail("text form '{}' is not known: {}", text_form, join_choices(text_form_names()));
  }
  return result;
}

std::vector<int32_t> tokenize_text(const Tokenizer& tokenizer, const std::filesystem::path& path,
                                   std::string_view text_form) {
  require(text_form != "articles", "text form 'articles' gives many documents, not one text");
  return std::move(tokenize_documents(tokenizer, read_text(path), text_form).documents.front());
}

}  // namespace fewbit
