#include "fewbit/io/llama2c.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"

namespace fewbit {
namespace {

constexpr size_t kHeaderBytes = 7 * sizeof(int32_t);
// First word of the later layouts.
constexpr uint32_t kVersionedMagic = 0x616b3432;
// Far above any model, low enough that the sum of all sizes fits 64 bits.
constexpr int32_t kMaxExtent = 1 << 19;

// The damaged copy of stories260K.bin, and the sound file it comes from.
constexpr size_t kDamagedBytes = 1056540;
constexpr std::string_view kDamagedSha256 =
    "9414d5a285453a7eab631713d171753232c978f6f97654211469aff8be93c8d6";
constexpr std::string_view kSoundSha256 =
    "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696";
// How often each matrix of it was transposed; transposing a square one twice undoes it.
constexpr int kTranspositions = 5;

Llama2cHeader read_header(std::span<const std::byte> bytes) {
  require(bytes.size() >= kHeaderBytes, "{} bytes: too short for the header of a llama2.c file",
          bytes.size());
  int32_t words[7];
  std::memcpy(words, bytes.data(), kHeaderBytes);
  require(static_cast<uint32_t>(words[0]) != kVersionedMagic,
          "byte 0: a versioned llama2.c file; only the legacy layout (version 0) is read");
  Llama2cHeader header;
  header.tied = words[5] > 0;
  if (words[5] < 0 && words[5] >= -kMaxExtent) words[5] = -words[5];
  constexpr const char* kNames[7] = {"dim",      "hidden_dim", "layers", "heads",
                                     "kv_heads", "vocab_size", "seq_len"};
  size_t* const fields[7] = {&header.dim,      &header.hidden_dim, &header.layers, &header.heads,
                             &header.kv_heads, &header.vocab_size, &header.seq_len};
  for (size_t i = 0; i < 7; ++i) {
    require(words[i] > 0 && words[i] <= kMaxExtent,
            "byte {}: {} = {} is not in the range 1 to {}; is this a llama2.c file?", 4 * i,
            kNames[i], words[i], kMaxExtent);
    *fields[i] = static_cast<size_t>(words[i]);
  }
  require(header.dim % header.heads == 0 && header.head_dim() % 2 == 0,
          "dim {} does not divide into {} heads of even size", header.dim, header.heads);
  require(header.heads % header.kv_heads == 0, "heads {} is no multiple of kv_heads {}",
          header.heads, header.kv_heads);
  return header;
}

struct Part {
  const char* name;  // nullptr: skipped.
  std::vector<size_t> shape;
};

std::vector<Part> parts_of(const Llama2cHeader& h) {
  std::vector<Part> parts = {
      {"token_embedding", {h.vocab_size, h.dim}},
      {"rms_att", {h.layers, h.dim}},
      {"wq", {h.layers, h.dim, h.dim}},
      {"wk", {h.layers, h.kv_dim(), h.dim}},
      {"wv", {h.layers, h.kv_dim(), h.dim}},
      {"wo", {h.layers, h.dim, h.dim}},
      {"rms_ffn", {h.layers, h.dim}},
      {"w1", {h.layers, h.hidden_dim, h.dim}},
      {"w2", {h.layers, h.dim, h.hidden_dim}},
      {"w3", {h.layers, h.hidden_dim, h.dim}},
      {"rms_final", {h.dim}},
      {nullptr, {2, h.seq_len, h.head_dim() / 2}},  // Cosines and sines of the rotations.
  };
  if (!h.tied) parts.push_back({"wcls", {h.vocab_size, h.dim}});
  return parts;
}

std::vector<TensorView> place_parts(const Llama2cHeader& header, std::span<const std::byte> bytes) {
  std::vector<TensorView> tensors;
  size_t offset = kHeaderBytes;
  for (Part& part : parts_of(header)) {
    TensorView tensor{part.name ? part.name : "", Dtype::f32, std::move(part.shape), {}};
    const size_t size = tensor.elements() * sizeof(float);
    if (part.name && offset <= bytes.size() && size <= bytes.size() - offset) {
      tensor.bytes = bytes.subspan(offset, size);
      tensors.push_back(std::move(tensor));
    }
    offset += size;
  }
  require(offset == bytes.size(),
          "{} bytes, but the header (dim {}, hidden_dim {}, layers {}, heads {}, kv_heads {}, "
          "vocab_size {}, seq_len {}) needs {}",
          bytes.size(), header.dim, header.hidden_dim, header.layers, header.heads, header.kv_heads,
          header.vocab_size, header.seq_len, offset);
  return tensors;
}

// Each layer's matrix read as [rows, cols] and written as its transpose, in place, `times` over.
void transpose_layers(std::span<std::byte> bytes, size_t layers, size_t rows, size_t cols,
                      int times) {
  const size_t count = rows * cols;
  std::vector<float> from(count), to(count);
  for (size_t layer = 0; layer < layers; ++layer) {
    const auto part = bytes.subspan(layer * count * sizeof(float), count * sizeof(float));
    std::memcpy(from.data(), part.data(), part.size());
    for (int time = 0; time < times; ++time) {
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < cols; ++c) to[c * rows + r] = from[r * cols + c];
      }
      from.swap(to);
    }
    std::memcpy(part.data(), from.data(), part.size());
  }
}

// The sound bytes of the damaged copy, or nothing for any other file.
std::shared_ptr<const std::vector<std::byte>> repair(std::span<const std::byte> bytes,
                                                     const std::vector<TensorView>& tensors) {
  if (bytes.size() != kDamagedBytes || sha256_hex(bytes) != kDamagedSha256) return nullptr;
  auto sound = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
  for (const TensorView& tensor : tensors) {
    if (tensor.shape.size() != 3) continue;
    const auto offset = static_cast<size_t>(tensor.bytes.data() - bytes.data());
    transpose_layers(std::span(*sound).subspan(offset, tensor.bytes.size()), tensor.shape[0],
                     tensor.shape[1], tensor.shape[2], kTranspositions);
  }
  require(sha256_hex(*sound) == kSoundSha256, "the transposed copy could not be put right");
  return sound;
}

}  // namespace

Llama2cFile Llama2cFile::open(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  Llama2cFile result = parse(file.bytes(), path.string());
  result.file_ = file;
  return result;
}

Llama2cFile Llama2cFile::parse(std::span<const std::byte> bytes, std::string what) {
  Llama2cFile result;
  with_context(what, [&] {
    result.header_ = read_header(bytes);
    result.tensors_ = place_parts(result.header_, bytes);
    result.repaired_ = repair(bytes, result.tensors_);
  });
  if (result.repaired_) {
    warn("{}: the matrices of this copy were transposed in place; they are put right in memory",
         what);
    result.tensors_ = place_parts(result.header_, *result.repaired_);
  }
  result.what_ = std::move(what);
  return result;
}

const TensorView& Llama2cFile::tensor(std::string_view name) const {
  const auto found = std::ranges::find(tensors_, name, &TensorView::name);
  require(found != tensors_.end(), "{}: there is no tensor '{}'", what_, name);
  return *found;
}

TensorView Llama2cFile::layer(std::string_view name, size_t index) const {
  const TensorView& all = tensor(name);
  const bool layered = name.starts_with("w") && name != "wcls";
  require(layered || name == "rms_att" || name == "rms_ffn", "{}: tensor '{}' has no layers", what_,
          name);
  require(index < header_.layers, "{}: tensor '{}': layer {} of {}", what_, name, index,
          header_.layers);
  TensorView one{
      fmt::format("{}[{}]", name, index), all.dtype, {all.shape.begin() + 1, all.shape.end()}, {}};
  const size_t size = one.elements() * sizeof(float);
  one.bytes = all.bytes.subspan(index * size, size);
  return one;
}

}  // namespace fewbit
