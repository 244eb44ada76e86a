// The token ids of a corpus as one stream, in memory or in a mapped file that is made once.
//
// Ids take two bytes each if the vocabulary has at most 65536 tokens, else four. The file
// (docs/formats/tokens.md) is named by the hash of everything that determines the ids: texts,
// tokenizer, options; it appears whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/file.h"
#include "fewbit/text/corpus.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {

class TokenStream {
 public:
  TokenStream() = default;
  // Ids of a vocabulary of this size. Error: an id outside it.
  TokenStream(std::span<const TokenId> ids, size_t vocabulary_size);
  // A file of tokenize_corpus. Errors name the file; its ids are not checked.
  static TokenStream open(const std::filesystem::path& path);

  size_t size() const { return bytes().size() / width_; }
  // 2 or 4.
  size_t bytes_per_id() const { return width_; }
  TokenId operator[](size_t i) const;
  // Fills `out` with the ids from `first` on. Error: there are not so many.
  void copy(size_t first, std::span<TokenId> out) const;
  std::vector<TokenId> to_vector() const;
  // SHA-256 of the ids as they are stored, little-endian.
  std::string sha256() const;
  std::span<const std::byte> bytes() const { return mapped_ ? mapped_ids_ : owned_; }

 private:
  size_t width_ = 2;
  std::vector<std::byte> owned_;
  std::optional<MappedFile> mapped_;
  std::span<const std::byte> mapped_ids_;
};

struct CorpusTokens {
  DocumentOptions documents;
  // A document ends with the tokenizer's EOS. Error if it has none.
  bool end_documents = true;
  // Where files are kept; empty: the ids stay in memory.
  std::filesystem::path cache_directory;
};

// All documents of the files, in order. Control tokens written in the texts are plain text.
TokenStream tokenize_corpus(const Tokenizer& tokenizer,
                            std::span<const std::filesystem::path> paths,
                            const CorpusTokens& options);

}  // namespace fewbit
