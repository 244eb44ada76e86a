#include "fewbit/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"
#include "fewbit/base/json.h"

namespace fewbit {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor data is little-endian");

constexpr size_t kPrefixBytes = 8;
// The limit of the reference reader; headers of the largest models need a hundredth of it.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
// Data begins on a multiple of this, as the reference writer does.
constexpr size_t kDataAlignment = 8;
constexpr const char* kMetadataKey = "__metadata__";

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  size_t bytes;
};
constexpr DtypeInfo kDtypes[] = {
    {Dtype::boolean, "BOOL", 1},    {Dtype::u8, "U8", 1},           {Dtype::i8, "I8", 1},
    {Dtype::u16, "U16", 2},         {Dtype::i16, "I16", 2},         {Dtype::u32, "U32", 4},
    {Dtype::i32, "I32", 4},         {Dtype::u64, "U64", 8},         {Dtype::i64, "I64", 8},
    {Dtype::f16, "F16", 2},         {Dtype::bf16, "BF16", 2},       {Dtype::f32, "F32", 4},
    {Dtype::f64, "F64", 8},         {Dtype::f8_e4m3, "F8_E4M3", 1}, {Dtype::f8_e5m2, "F8_E5M2", 1},
    {Dtype::f8_e8m0, "F8_E8M0", 1},
};

const DtypeInfo& dtype_info(Dtype dtype) {
  const auto* found = std::ranges::find(kDtypes, dtype, &DtypeInfo::dtype);
  if (found == std::end(kDtypes)) throw std::logic_error("dtype without a table entry");
  return *found;
}

Dtype dtype_from_name(std::string_view name) {
  const auto* found = std::ranges::find(kDtypes, name, &DtypeInfo::name);
  if (found != std::end(kDtypes)) return found->dtype;
  std::string known;
  for (const DtypeInfo& info : kDtypes) known += fmt::format(" {}", info.name);
  fail("dtype '{}' is not one of{}", name, known);
}

// Bytes of a tensor, or nothing if they do not fit a size_t.
std::optional<size_t> checked_bytes(std::span<const size_t> shape, Dtype dtype) {
  size_t bytes = dtype_bytes(dtype);
  for (const size_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

size_t json_size(const Json& value, const char* what) {
  require(value.is_number_unsigned(), "{}: {} is not a non-negative 64-bit integer", what,
          value.dump().substr(0, 80));
  return value.get<size_t>();
}

struct Entry {
  TensorView view;
  size_t begin, end;
};

Entry parse_entry(const std::string& name, const Json& value, std::span<const std::byte> data) {
  require(value.is_object(), "expected an object with dtype, shape and data_offsets");
  Entry entry;
  entry.view.name = name;
  entry.view.dtype = dtype_from_name(json_get<std::string>(value, "dtype"));
  const Json& shape = value.contains("shape") ? value["shape"] : Json();
  require(shape.is_array(), "key 'shape' is missing or not an array");
  entry.view.shape.reserve(shape.size());
  for (const Json& extent : shape) entry.view.shape.push_back(json_size(extent, "shape"));
  const Json& offsets = value.contains("data_offsets") ? value["data_offsets"] : Json();
  require(offsets.is_array() && offsets.size() == 2,
          "key 'data_offsets' is missing or not a pair of offsets");
  entry.begin = json_size(offsets[0], "data_offsets");
  entry.end = json_size(offsets[1], "data_offsets");
  require(entry.begin <= entry.end && entry.end <= data.size(),
          "data_offsets [{}, {}] are not inside the data section of {} bytes", entry.begin,
          entry.end, data.size());
  const std::optional<size_t> bytes = checked_bytes(entry.view.shape, entry.view.dtype);
  require(bytes.has_value(), "shape [{}]: the size overflows", fmt::join(entry.view.shape, ", "));
  require(*bytes == entry.end - entry.begin,
          "data_offsets [{}, {}] hold {} bytes, but {} of shape [{}] needs {}", entry.begin,
          entry.end, entry.end - entry.begin, dtype_name(entry.view.dtype),
          fmt::join(entry.view.shape, ", "), *bytes);
  entry.view.bytes = data.subspan(entry.begin, *bytes);
  return entry;
}

// Entries in data order must follow each other from the first byte to the last.
void require_tiling(std::span<const Entry> entries, size_t data_bytes) {
  size_t expected = 0;
  const std::string* previous = nullptr;
  for (const Entry& entry : entries) {
    require(entry.begin >= expected, "tensor '{}' begins at data byte {}, inside tensor '{}'",
            entry.view.name, entry.begin, previous ? *previous : "");
    require(entry.begin == expected,
            "tensor '{}' begins at data byte {}: bytes from {} on belong to no tensor",
            entry.view.name, entry.begin, expected);
    expected = entry.end;
    previous = &entry.view.name;
  }
  require(expected == data_bytes, "data bytes from {} to {} belong to no tensor", expected,
          data_bytes);
}

template <class Stored, class Value, class Convert>
void convert_elements(std::span<const std::byte> bytes, std::vector<Value>& values,
                      Convert convert) {
  values.resize(bytes.size() / sizeof(Stored));
  for (size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
}

}  // namespace

std::string_view dtype_name(Dtype dtype) { return dtype_info(dtype).name; }
size_t dtype_bytes(Dtype dtype) { return dtype_info(dtype).bytes; }

size_t TensorView::elements() const {
  size_t count = 1;
  for (const size_t extent : shape) count *= extent;
  return count;
}

std::vector<float> to_floats(const TensorView& tensor) {
  std::vector<float> values;
  switch (tensor.dtype) {
    case Dtype::f32:
      values.resize(tensor.bytes.size() / sizeof(float));
      if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
      break;
    case Dtype::f16:
      convert_elements<uint16_t>(tensor.bytes, values, f16_to_float);
      break;
    case Dtype::bf16:
      convert_elements<uint16_t>(tensor.bytes, values, bf16_to_float);
      break;
    case Dtype::f64:
      convert_elements<double>(tensor.bytes, values,
                               [](double value) { return static_cast<float>(value); });
      break;
    default:
      fail("tensor '{}': expected F16, BF16, F32 or F64, found {}", tensor.name,
           dtype_name(tensor.dtype));
  }
  return values;
}

std::vector<int64_t> to_integers(const TensorView& tensor) {
  std::vector<int64_t> values;
  const auto widen = [](auto value) { return static_cast<int64_t>(value); };
  switch (tensor.dtype) {
    case Dtype::boolean:
      convert_elements<uint8_t>(tensor.bytes, values, [](uint8_t value) { return value != 0; });
      break;
    case Dtype::u8:
      convert_elements<uint8_t>(tensor.bytes, values, widen);
      break;
    case Dtype::i8:
      convert_elements<int8_t>(tensor.bytes, values, widen);
      break;
    case Dtype::u16:
      convert_elements<uint16_t>(tensor.bytes, values, widen);
      break;
    case Dtype::i16:
      convert_elements<int16_t>(tensor.bytes, values, widen);
      break;
    case Dtype::u32:
      convert_elements<uint32_t>(tensor.bytes, values, widen);
      break;
    case Dtype::i32:
      convert_elements<int32_t>(tensor.bytes, values, widen);
      break;
    case Dtype::i64:
      convert_elements<int64_t>(tensor.bytes, values, widen);
      break;
    case Dtype::u64:
      convert_elements<uint64_t>(tensor.bytes, values, [&](uint64_t value) {
        require(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
                "tensor '{}': {} does not fit a signed 64-bit integer", tensor.name, value);
        return static_cast<int64_t>(value);
      });
      break;
    default:
      fail("tensor '{}': expected BOOL or integers, found {}", tensor.name,
           dtype_name(tensor.dtype));
  }
  return values;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  SafetensorsFile result = parse(file.bytes(), path.string());
  result.file_ = file;
  return result;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, std::string what) {
  require(bytes.size() >= kPrefixBytes,
          "{}: {} bytes: too short for the header length at byte 0 of a safetensors file", what,
          bytes.size());
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), kPrefixBytes);
  require(header_bytes <= kMaxHeaderBytes,
          "{}: byte 0: header length {} is above the limit of {}; is this a safetensors file?",
          what, header_bytes, kMaxHeaderBytes);
  require(header_bytes <= bytes.size() - kPrefixBytes,
          "{}: byte 0: header length {} exceeds the {} bytes that follow (truncated file?)", what,
          header_bytes, bytes.size() - kPrefixBytes);
  const std::string_view text = as_text(bytes.subspan(kPrefixBytes, header_bytes));
  require(text.starts_with('{'), "{}: byte {}: the header does not begin with '{{'", what,
          kPrefixBytes);
  const Json header = parse_json(text, fmt::format("{}: header", what));
  const std::span<const std::byte> data = bytes.subspan(kPrefixBytes + header_bytes);

  SafetensorsFile result;
  std::vector<Entry> entries;
  entries.reserve(header.size());
  for (const auto& item : header.items()) {
    const std::string& name = item.key();
    const Json& value = item.value();
    if (name == kMetadataKey) {
      require(value.is_object(), "{}: {} is not an object", what, kMetadataKey);
      for (const auto& [key, text_value] : value.items()) {
        require(text_value.is_string(), "{}: {}: the value of '{}' is not a string", what,
                kMetadataKey, key);
        result.metadata_[key] = text_value.get<std::string>();
      }
      continue;
    }
    entries.push_back(with_context(fmt::format("{}: tensor '{}'", what, name),
                                   [&] { return parse_entry(name, value, data); }));
  }
  // Tensors of no bytes share their offset with a neighbour and stand before it.
  std::ranges::stable_sort(entries, {},
                           [](const Entry& entry) { return std::pair(entry.begin, entry.end); });
  with_context(what, [&] { require_tiling(entries, data.size()); });

  result.what_ = std::move(what);
  result.tensors_.reserve(entries.size());
  for (Entry& entry : entries) {
    result.index_.emplace(entry.view.name, result.tensors_.size());
    result.tensors_.push_back(std::move(entry.view));
  }
  return result;
}

bool SafetensorsFile::contains(std::string_view name) const { return index_.contains(name); }

const TensorView& SafetensorsFile::tensor(std::string_view name) const {
  const auto found = index_.find(name);
  require(found != index_.end(), "{}: there is no tensor '{}'", what_, name);
  return tensors_[found->second];
}

const std::string& SafetensorsFile::metadata(std::string_view key) const {
  const auto found = metadata_.find(std::string(key));
  require(found != metadata_.end(), "{}: the metadata holds no key '{}'", what_, key);
  return found->second;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<Declaration> tensors,
                                     std::map<std::string, std::string> metadata)
    : file_(path), what_(path.string()), declared_(std::move(tensors)) {
  // Loaders of PyTorch models refuse files without it.
  metadata.try_emplace("format", "pt");
  nlohmann::ordered_json header;
  header[kMetadataKey] = metadata;
  std::set<std::string_view> names;
  size_t offset = 0;
  for (const Declaration& tensor : declared_) {
    require(tensor.name != kMetadataKey, "{}: a tensor cannot be named '{}'", what_, tensor.name);
    require(names.insert(tensor.name).second, "{}: tensor '{}' is declared twice", what_,
            tensor.name);
    const std::optional<size_t> bytes = checked_bytes(tensor.shape, tensor.dtype);
    size_t end = 0;
    require(bytes.has_value() && !__builtin_add_overflow(offset, *bytes, &end),
            "{}: tensor '{}': the size overflows", what_, tensor.name);
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    sizes_.push_back(*bytes);
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& error) {
    fail("{}: a tensor name or a metadata value is not UTF-8: {}", what_, error.what());
  }
  text.resize((text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
  require(text.size() <= kMaxHeaderBytes, "{}: the header of {} bytes is above the limit of {}",
          what_, text.size(), kMaxHeaderBytes);
  const uint64_t header_bytes = text.size();
  file_.write(std::as_bytes(std::span(&header_bytes, 1)));
  file_.write(text);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  require(next_ < declared_.size(), "{}: more tensors were written than the {} declared", what_,
          declared_.size());
  require(bytes.size() == sizes_[next_], "{}: tensor '{}': {} bytes given, {} declared", what_,
          declared_[next_].name, bytes.size(), sizes_[next_]);
  file_.write(bytes);
  ++next_;
}

void SafetensorsWriter::commit() {
  require(next_ == declared_.size(), "{}: tensor '{}' was declared but not written", what_,
          next_ < declared_.size() ? declared_[next_].name : "");
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       std::map<std::string, std::string> metadata) {
  std::vector<SafetensorsWriter::Declaration> declarations;
  declarations.reserve(tensors.size());
  for (const TensorToWrite& tensor : tensors) {
    declarations.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  SafetensorsWriter writer(path, std::move(declarations), std::move(metadata));
  for (const TensorToWrite& tensor : tensors) writer.write(tensor.bytes);
  writer.commit();
}

}  // namespace fewbit
