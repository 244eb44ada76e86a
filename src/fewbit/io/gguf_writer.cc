#include "fewbit/io/gguf_writer.h"

#include <type_traits>
#include <utility>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr uint32_t kVersion = 3;
constexpr size_t kAlignment = 32, kMaxNameBytes = 63, kMaxExtents = 4;

template <class T>
void append(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append_text(std::string& out, std::string_view text) {
  append<uint64_t>(out, text.size());
  out += text;
}

size_t padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t data_bytes(const GgufWriter::Declaration& tensor) {
  size_t rows = 1;
  for (size_t i = 1; i < tensor.shape.size(); ++i) rows *= tensor.shape[i];
  return rows * ggml_bytes(tensor.type, tensor.shape.empty() ? 1 : tensor.shape[0]);
}

}  // namespace

void GgufMetadata::begin(std::string_view key, GgufValueType type) {
  require(keys_.emplace(key).second, "GGUF key '{}' is given twice", key);
  append_text(bytes_, key);
  append<uint32_t>(bytes_, static_cast<uint32_t>(type));
}

void GgufMetadata::add(std::string_view key, uint32_t value) {
  begin(key, GgufValueType::u32);
  append(bytes_, value);
}

void GgufMetadata::add(std::string_view key, int32_t value) {
  begin(key, GgufValueType::i32);
  append(bytes_, value);
}

void GgufMetadata::add(std::string_view key, float value) {
  begin(key, GgufValueType::f32);
  append(bytes_, value);
}

void GgufMetadata::add(std::string_view key, bool value) {
  begin(key, GgufValueType::boolean);
  append<uint8_t>(bytes_, value ? 1 : 0);
}

void GgufMetadata::add(std::string_view key, std::string_view value) {
  begin(key, GgufValueType::string);
  append_text(bytes_, value);
}

void GgufMetadata::add(std::string_view key, const std::vector<bool>& values) {
  begin(key, GgufValueType::array);
  append<uint32_t>(bytes_, static_cast<uint32_t>(GgufValueType::boolean));
  append<uint64_t>(bytes_, values.size());
  for (const bool value : values) append<uint8_t>(bytes_, value ? 1 : 0);
}

void GgufMetadata::add(const GgufValue& value) {
  begin(value.key, value.is_array ? GgufValueType::array : value.type);
  if (value.is_array) {
    append<uint32_t>(bytes_, static_cast<uint32_t>(value.type));
    append<uint64_t>(bytes_, value.count);
  }
  bytes_ += as_text(value.bytes);
}

std::string GgufMetadata::header(size_t tensors) const {
  std::string out = "GGUF";
  append<uint32_t>(out, kVersion);
  append<uint64_t>(out, tensors);
  append<uint64_t>(out, keys_.size());
  return out + bytes_;
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<Declaration> tensors)
    : file_(path), what_(path.string()), declared_(std::move(tensors)) {
  require(!metadata.contains("general.alignment"),
          "{}: key 'general.alignment' is not written; it is {}", what_, kAlignment);
  std::string header = metadata.header(declared_.size());
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const Declaration& tensor : declared_) {
    require(tensor.name.size() <= kMaxNameBytes, "{}: tensor name {} is longer than {} bytes",
            what_, tensor.name, kMaxNameBytes);
    require(names.insert(tensor.name).second, "{}: tensor {} is given twice", what_, tensor.name);
    require(tensor.shape.size() <= kMaxExtents, "{}: tensor {} has more than {} extents", what_,
            tensor.name, kMaxExtents);
    append_text(header, tensor.name);
    append<uint32_t>(header, static_cast<uint32_t>(tensor.shape.size()));
    for (const size_t extent : tensor.shape) append<uint64_t>(header, extent);
    append<uint32_t>(header, static_cast<uint32_t>(tensor.type));
    append<uint64_t>(header, offset);
    offset += padded(with_context(fmt::format("{}: tensor {}", what_, tensor.name),
                                  [&] { return data_bytes(tensor); }));
  }
  file_.write(header);
  pad();
}

void GgufWriter::pad() {
  const size_t written = file_.bytes_written();
  file_.write(std::string(padded(written) - written, '\0'));
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  require(next_ < declared_.size(), "{}: more tensors were written than declared", what_);
  const Declaration& tensor = declared_[next_++];
  require(bytes.size() == data_bytes(tensor), "{}: tensor {}: {} bytes given, {} declared", what_,
          tensor.name, bytes.size(), data_bytes(tensor));
  file_.write(bytes);
  pad();
}

void GgufWriter::commit() {
  require(next_ == declared_.size(), "{}: tensor {} was not written", what_,
          next_ < declared_.size() ? declared_[next_].name : std::string());
  file_.commit();
}

}  // namespace fewbit
