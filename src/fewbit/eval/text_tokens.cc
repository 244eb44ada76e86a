#include "fewbit/eval/text_tokens.h"

#include <zstd.h>

#include <algorithm>
#include <memory>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/options.h"
#include "fewbit/eval/wikitext.h"

namespace fewbit {
namespace {

constexpr std::string_view kZstdMagic = "\x28\xb5\x2f\xfd";

// Any number of frames, as the zstd tool reads them.
std::string decompress(std::string_view compressed, size_t max_bytes) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(),
                                                                   ZSTD_freeDCtx);
  if (!context) throw std::bad_alloc();
  std::string text, chunk(ZSTD_DStreamOutSize(), '\0');
  ZSTD_inBuffer in{compressed.data(), compressed.size(), 0};
  size_t hint = 1;
  // A full output chunk may hide more, even when the input has ended.
  for (bool full = false; in.pos < in.size || full;) {
    ZSTD_outBuffer out{chunk.data(), chunk.size(), 0};
    hint = ZSTD_decompressStream(context.get(), &out, &in);
    require(!ZSTD_isError(hint), "damaged Zstandard data at byte {}: {}", in.pos,
            ZSTD_getErrorName(hint));
    require(text.size() + out.pos <= max_bytes, "more than {} bytes of text", max_bytes);
    text.append(chunk, 0, out.pos);
    full = out.pos == out.size;
  }
  require(hint == 0, "the Zstandard data ends before its frame does");
  return text;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, {.add_special = false, .parse_special = false});
}

}  // namespace

std::string read_text(const std::filesystem::path& path, size_t max_bytes) {
  std::string bytes = read_text_file(path, max_bytes);
  if (!bytes.starts_with(kZstdMagic)) return bytes;
  return with_context(path.string(), [&] { return decompress(bytes, max_bytes); });
}

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
