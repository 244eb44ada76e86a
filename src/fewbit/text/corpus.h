// Text corpora: files, plain or compressed with Zstandard, and the documents in them.
//
// Whether a file is compressed is seen from its first bytes, not from its name.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace fewbit {

// Refused beyond this, so that a small compressed file cannot fill the memory.
inline constexpr size_t kMaxTextBytes = size_t{1} << 34;

// `path`, or `path`.zst where only that exists. Error if neither does.
std::filesystem::path find_text_file(const std::filesystem::path& path);

// The whole text of a file (find_text_file). Error: it is longer than `max_bytes`, or its
// compressed data are damaged or cut short.
std::string read_text(const std::filesystem::path& path, size_t max_bytes = kMaxTextBytes);

// The same, block by block: `sink` may see characters cut in two.
void for_each_text_block(const std::filesystem::path& path,
                         const std::function<void(std::string_view)>& sink,
                         size_t max_bytes = kMaxTextBytes);

struct DocumentOptions {
  // A line that consists of this stands between documents; empty: a file is one document.
  std::string separator = "<|endoftext|>";
  size_t max_document_bytes = size_t{1} << 30;
};

// Calls `visit` for every document of a file, in order; newlines around it are taken off, and empty
// ones are left out. Only one document is in memory at a time.
void for_each_document(const std::filesystem::path& path, const DocumentOptions& options,
                       const std::function<void(std::string&&)>& visit);

}  // namespace fewbit
