#include "fewbit/text/corpus.h"

#include <zstd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"

namespace fewbit {
namespace {

constexpr std::string_view kZstdMagic = "\x28\xb5\x2f\xfd";
constexpr size_t kBlockBytes = size_t{1} << 20;

// Adds up what a file gives and refuses too much.
class Budget {
 public:
  Budget(const std::filesystem::path& path, size_t max_bytes) : path_(path), max_(max_bytes) {}
  void spend(size_t bytes) {
    require(bytes <= max_ - used_, "{}: the text is longer than {} bytes", path_.string(), max_);
    used_ += bytes;
  }

 private:
  const std::filesystem::path& path_;
  size_t max_, used_ = 0;
};

void decompress(std::string_view bytes, const std::filesystem::path& path, Budget& budget,
                const std::function<void(std::string_view)>& sink) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  if (!context) throw std::bad_alloc();
  std::vector<char> block(kBlockBytes);
  ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
  size_t missing = 0;
  bool full = false;
  // A full block within a frame may mean that more waits inside the decompressor.
  while (input.pos < input.size || (full && missing != 0)) {
    ZSTD_outBuffer output{block.data(), block.size(), 0};
    missing = ZSTD_decompressStream(context.get(), &output, &input);
    require(!ZSTD_isError(missing), "{}: compressed byte {}: {}", path.string(), input.pos,
            ZSTD_getErrorName(missing));
    full = output.pos == output.size;
    budget.spend(output.pos);
    if (output.pos > 0) sink({block.data(), output.pos});
  }
  require(missing == 0, "{}: the compressed data are cut short", path.string());
}

}  // namespace

std::filesystem::path find_text_file(const std::filesystem::path& path) {
  if (std::filesystem::exists(path)) return path;
  std::filesystem::path compressed = path;
  compressed += ".zst";
  require(std::filesystem::exists(compressed), "{}: no such file, nor {}", path.string(),
          compressed.filename().string());
  return compressed;
}

void for_each_text_block(const std::filesystem::path& path,
                         const std::function<void(std::string_view)>& sink, size_t max_bytes) {
  const std::filesystem::path found = find_text_file(path);
  const MappedFile file = MappedFile::open(found);
  std::string_view bytes = as_text(file.bytes());
  Budget budget(found, max_bytes);
  if (bytes.starts_with(kZstdMagic)) return decompress(bytes, found, budget, sink);
  budget.spend(bytes.size());
  for (; !bytes.empty(); bytes.remove_prefix(std::min(kBlockBytes, bytes.size()))) {
    sink(bytes.substr(0, kBlockBytes));
  }
}

std::string read_text(const std::filesystem::path& path, size_t max_bytes) {
  std::string text;
  for_each_text_block(
      path, [&](std::string_view block) { text += block; }, max_bytes);
  return text;
}

void for_each_document(const std::filesystem::path& path, const DocumentOptions& options,
                       const std::function<void(std::string&&)>& visit) {
  std::string document;
  // Where the line that is being read begins.
  size_t line = 0;
  const auto finish = [&](size_t end) {
    constexpr std::string_view kNewlines = "\r\n";
    std::string_view text = std::string_view(document).substr(0, end);
    const size_t first = text.find_first_not_of(kNewlines);
    if (first != std::string_view::npos) {
      text = text.substr(first, text.find_last_not_of(kNewlines) + 1 - first);
      visit(std::string(text));
    }
    document.clear();
    line = 0;
  };
  const auto is_separator = [&](std::string_view text) {
    if (text.ends_with('\r')) text.remove_suffix(1);
    return !options.separator.empty() && text == options.separator;
  };
  for_each_text_block(path, [&](std::string_view block) {
    while (!block.empty()) {
      const size_t newline = block.find('\n');
      const size_t taken = newline == std::string_view::npos ? block.size() : newline + 1;
      document += block.substr(0, taken);
      block.remove_prefix(taken);
      require(document.size() <= options.max_document_bytes,
              "{}: a document is longer than {} bytes", path.string(), options.max_document_bytes);
      if (newline == std::string_view::npos) continue;
      if (is_separator(std::string_view(document).substr(line, document.size() - line - 1))) {
        finish(line);
      } else {
        line = document.size();
      }
    }
  });
  finish(is_separator(std::string_view(document).substr(line)) ? line : document.size());
}

}  // namespace fewbit
