#include "fewbit/text/token_stream.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

static_assert(std::endian::native == std::endian::little, "ids are stored little-endian");

constexpr size_t kNarrowVocabulary = size_t{1} << 16;
constexpr std::array<char, 16> kMagic = {'f', 'e', 'w', 'b', 'i', 't', ' ', 't',
                                         'o', 'k', 'e', 'n', 's', ' ', '1', '\n'};

// Stands at the end, since the count is known only then.
struct Footer {
  std::array<char, 16> magic = kMagic;
  uint64_t count = 0;
  uint32_t width = 0;
  uint32_t reserved = 0;
  std::array<char, 64> key{};  // Hash in the file's name, in hexadecimal.
};
static_assert(sizeof(Footer) == 96);

size_t width_for(size_t vocabulary_size) { return vocabulary_size <= kNarrowVocabulary ? 2 : 4; }

void append_ids(std::span<const TokenId> ids, size_t width, size_t vocabulary_size,
                std::vector<std::byte>& out) {
  const size_t first = out.size();
  out.resize(first + ids.size() * width);
  std::byte* to = out.data() + first;
  for (const TokenId id : ids) {
    require(id >= 0 && static_cast<size_t>(id) < vocabulary_size, "token id {} of {} tokens", id,
            vocabulary_size);
    std::memcpy(to, &id, width);
    to += width;
  }
}

// Encodes documents batch by batch on all threads and hands the ids out in order.
class Encoder {
 public:
  using Sink = std::function<void(std::span<const TokenId>)>;
  Encoder(const Tokenizer& tokenizer, std::optional<TokenId> end, Sink sink)
      : tokenizer_(tokenizer), end_(end), sink_(std::move(sink)) {}

  void add(std::string&& document) {
    bytes_ += document.size();
    batch_.push_back(std::move(document));
    if (bytes_ >= kBatchBytes || batch_.size() >= kBatchDocuments) flush();
  }

  void flush() {
    throw_if_interrupted();
    std::vector<std::vector<TokenId>> ids(batch_.size());
    parallel_for(batch_.size(), [&](size_t i) {
      ids[i] = tokenizer_.encode(batch_[i], {.add_special = false, .parse_special = false});
      if (end_) ids[i].push_back(*end_);
    });
    for (const auto& document : ids) sink_(document);
    batch_.clear();
    bytes_ = 0;
  }

 private:
  static constexpr size_t kBatchBytes = size_t{16} << 20, kBatchDocuments = 4096;
  const Tokenizer& tokenizer_;
  std::optional<TokenId> end_;
  Sink sink_;
  std::vector<std::string> batch_;
  size_t bytes_ = 0;
};

void encode_all(const Tokenizer& tokenizer, std::span<const std::filesystem::path> paths,
                const CorpusTokens& options, std::optional<TokenId> end, Encoder::Sink sink) {
  Encoder encoder(tokenizer, end, std::move(sink));
  for (const auto& path : paths) {
    for_each_document(path, options.documents,
                      [&](std::string&& document) { encoder.add(std::move(document)); });
  }
  encoder.flush();
}

std::string cache_key(const Tokenizer& tokenizer, std::span<const std::filesystem::path> paths,
                      const CorpusTokens& options) {
  std::string description =
      fmt::format("tokens 1\ntokenizer {}\nseparator {}:{}\nend {}\n", tokenizer.fingerprint(),
                  options.documents.separator.size(), options.documents.separator,
                  options.end_documents ? tokenizer.special().eos.value_or(-1) : -1);
  for (const auto& path : paths) {
    description += fmt::format("text {}\n", sha256_file(find_text_file(path)));
  }
  return sha256_hex(description);
}

}  // namespace

TokenStream::TokenStream(std::span<const TokenId> ids, size_t vocabulary_size)
    : width_(width_for(vocabulary_size)) {
  append_ids(ids, width_, vocabulary_size, owned_);
}

TokenStream TokenStream::open(const std::filesystem::path& path) {
  TokenStream stream;
  stream.mapped_ = MappedFile::open(path);
  const std::span<const std::byte> bytes = stream.mapped_->bytes();
  const auto where = [&] { return path.string(); };
  require(bytes.size() >= sizeof(Footer), "{}: too short for a file of tokens", where());
  Footer footer;
  const size_t data_bytes = bytes.size() - sizeof(Footer);
  std::memcpy(&footer, bytes.data() + data_bytes, sizeof(Footer));
  require(footer.magic == kMagic, "{}: not a file of tokens", where());
  require(footer.width == 2 || footer.width == 4, "{}: {} bytes an id; allowed: 2, 4", where(),
          footer.width);
  require(data_bytes % footer.width == 0 && data_bytes / footer.width == footer.count,
          "{}: {} bytes for {} ids of {} bytes", where(), data_bytes, footer.count, footer.width);
  stream.width_ = footer.width;
  stream.mapped_ids_ = bytes.first(data_bytes);
  return stream;
}

TokenId TokenStream::operator[](size_t i) const {
  uint32_t id = 0;
  std::memcpy(&id, bytes().data() + i * width_, width_);
  return static_cast<TokenId>(id);
}

void TokenStream::copy(size_t first, std::span<TokenId> out) const {
  require(first <= size() && out.size() <= size() - first, "tokens {} to {} of {}", first,
          first + out.size(), size());
  if (width_ == sizeof(TokenId)) {
    if (!out.empty()) {
      std::memcpy(out.data(), bytes().data() + first * width_, out.size_bytes());
    }
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) out[i] = (*this)[first + i];
}

std::vector<TokenId> TokenStream::to_vector() const {
  std::vector<TokenId> ids(size());
  copy(0, ids);
  return ids;
}

std::string TokenStream::sha256() const { return sha256_hex(bytes()); }

TokenStream tokenize_corpus(const Tokenizer& tokenizer,
                            std::span<const std::filesystem::path> paths,
                            const CorpusTokens& options) {
  std::optional<TokenId> end;
  if (options.end_documents) {
    end = tokenizer.special().eos;
    require(end.has_value(), "the tokenizer has no EOS token to end documents with");
  }
  const size_t vocabulary_size = tokenizer.vocabulary_size();
  const size_t width = width_for(vocabulary_size);
  if (options.cache_directory.empty()) {
    std::vector<TokenId> all;
    encode_all(tokenizer, paths, options, end, [&](std::span<const TokenId> ids) {
      all.insert(all.end(), ids.begin(), ids.end());
    });
    return TokenStream(all, vocabulary_size);
  }
  const std::string key = cache_key(tokenizer, paths, options);
  const std::filesystem::path path = options.cache_directory / (key + ".tokens");
  if (!std::filesystem::exists(path)) {
    std::filesystem::create_directories(options.cache_directory);
    AtomicFile file(path);
    Footer footer;
    footer.width = static_cast<uint32_t>(width);
    std::copy(key.begin(), key.end(), footer.key.begin());
    encode_all(tokenizer, paths, options, end, [&](std::span<const TokenId> ids) {
      std::vector<std::byte> stored;
      append_ids(ids, width, vocabulary_size, stored);
      file.write(stored);
      footer.count += ids.size();
    });
    file.write(std::as_bytes(std::span(&footer, 1)));
    file.commit();
  }
  return TokenStream::open(path);
}

}  // namespace fewbit
