#include "fewbit/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as little-endian");

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kOldestVersion = 2, kNewestVersion = 3;
constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr size_t kDefaultAlignment = 32;
// Limits of the format's reference implementation.
constexpr size_t kMaxKeyBytes = 65535;
constexpr size_t kMaxTensorNameBytes = 63;
constexpr uint32_t kMaxDimensions = 4;
// The least that one entry can take: key length, one byte of key, type, a one-byte value; name
// length, one byte of name, number of dimensions, type, offset.
constexpr size_t kMinValueBytes = 8 + 1 + 4 + 1;
constexpr size_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;
// Room made before the entries are read: more than most files need, little if a count lies.
constexpr size_t kMaxReserve = 4096;

constexpr std::string_view kValueTypeNames[] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
// Bytes of one element; a string at least its length field.
constexpr size_t kValueTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};

size_t value_type_bytes(GgufValueType type) { return kValueTypeBytes[static_cast<uint32_t>(type)]; }

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// Reads forward through the directory; every read is checked against the end.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(uint64_t count, const char* what) {
    require(count <= left(), "byte {}: {} of {} bytes, but the file ends after {}", position_, what,
            count, left());
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(count));
    position_ += taken.size();
    return taken;
  }

  template <class T>
  T number(const char* what) {
    return load<T>(take(sizeof(T), what).data());
  }

  std::string_view string(const char* what) {
    const auto length = number<uint64_t>("a string length");
    return as_text(take(length, what));
  }

  // A count of entries of at least `entry_bytes` each.
  size_t count(size_t entry_bytes, const char* what) {
    const size_t at = position_;
    const auto value = number<uint64_t>(what);
    require(value <= left() / entry_bytes, "byte {}: {} {} do not fit the {} bytes that follow", at,
            value, what, left());
    return static_cast<size_t>(value);
  }

 private:
  std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

GgufValueType read_value_type(Cursor& cursor) {
  const size_t at = cursor.position();
  const auto id = cursor.number<uint32_t>("a value type");
  require(id < std::size(kValueTypeNames), "byte {}: value type {} is not known", at, id);
  return static_cast<GgufValueType>(id);
}

void require_booleans(std::span<const std::byte> bytes, size_t at) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    require(bytes[i] <= std::byte{1}, "byte {}: {} is not a boolean", at + i,
            static_cast<unsigned>(bytes[i]));
  }
}

// The value after its key.
void read_value(Cursor& cursor, GgufValue& value) {
  value.type = read_value_type(cursor);
  if (value.type == GgufValueType::array) {
    value.is_array = true;
    const size_t at = cursor.position();
    value.type = read_value_type(cursor);
    require(value.type != GgufValueType::array, "byte {}: arrays of arrays are not read", at);
    value.count = cursor.count(value_type_bytes(value.type), "array elements");
  }
  const size_t begin = cursor.position();
  if (value.type == GgufValueType::string) {
    Cursor ahead = cursor;
    for (size_t i = 0; i < value.count; ++i) ahead.string("a string");
    value.bytes = cursor.take(ahead.position() - begin, "strings");
    return;
  }
  value.bytes = cursor.take(value.count * value_type_bytes(value.type), "a value");
  if (value.type == GgufValueType::boolean) require_booleans(value.bytes, begin);
}

// Name, shape, type and relative offset; nothing about the data yet.
GgufTensor read_tensor(Cursor& cursor, std::string name) {
  GgufTensor tensor;
  tensor.name = std::move(name);
  const auto dimensions = cursor.number<uint32_t>("the number of dimensions");
  require(dimensions <= kMaxDimensions, "{} dimensions; at most {} are allowed", dimensions,
          kMaxDimensions);
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = cursor.number<uint64_t>("an extent");
    require(extent <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
            "extent {} is negative", static_cast<int64_t>(extent));
    tensor.shape.push_back(static_cast<size_t>(extent));
  }
  const auto type = cursor.number<uint32_t>("the tensor type");
  const GgmlTypeInfo* info = find_ggml_type(type);
  require(info != nullptr, "{}", info ? "" : describe_unknown_ggml_type(type));
  tensor.type = info->type;
  tensor.offset = static_cast<size_t>(cursor.number<uint64_t>("the data offset"));
  return tensor;
}

size_t tensor_bytes(const GgufTensor& tensor) {
  size_t elements = 1;
  for (const size_t extent : tensor.shape) {
    require(!__builtin_mul_overflow(elements, extent, &elements), "shape [{}]: the size overflows",
            fmt::join(tensor.shape, ", "));
  }
  const GgmlTypeInfo& info = ggml_type_info(tensor.type);
  require(tensor.columns() % info.block_elements == 0,
          "rows of {} elements are no multiple of the {} of a {} block", tensor.columns(),
          info.block_elements, info.name);
  return ggml_bytes(tensor.type, elements);
}

// Tensors follow each other in the order of their infos, each padded to the alignment.
void place_tensors(std::vector<GgufTensor>& tensors, std::span<const std::byte> bytes,
                   size_t data_begin, size_t alignment) {
  size_t expected = 0;
  for (GgufTensor& tensor : tensors) {
    with_context(fmt::format("tensor '{}'", tensor.name), [&] {
      const size_t size = tensor_bytes(tensor);
      require(tensor.offset % alignment == 0, "offset {} is no multiple of the alignment {}",
              tensor.offset, alignment);
      require(tensor.offset >= expected,
              "offset {} lies inside the tensor before it, which ends at {}", tensor.offset,
              expected);
      require(tensor.offset == expected,
              "offset {} leaves a gap after the tensor before it, which ends at {}", tensor.offset,
              expected);
      size_t begin = 0, end = 0;
      require(!__builtin_add_overflow(data_begin, tensor.offset, &begin) &&
                  !__builtin_add_overflow(begin, size, &end) && end <= bytes.size(),
              "{} bytes at byte {} of the file reach beyond its end at {} (truncated file?)", size,
              begin, bytes.size());
      tensor.offset = begin;
      tensor.bytes = bytes.subspan(begin, size);
      expected = end - data_begin;
      expected += (alignment - expected % alignment) % alignment;
    });
  }
}

uint32_t read_version(Cursor& cursor) {
  require(as_text(cursor.take(kMagic.size(), "the magic")) == kMagic,
          "byte 0: the file does not begin with '{}'", kMagic);
  const auto version = cursor.number<uint32_t>("the version");
  require(version == 0 || (version & 0xffffu) != 0, "the file is big-endian, which is not read");
  require(version >= kOldestVersion && version <= kNewestVersion,
          "version {} is not read; {} and {} are", version, kOldestVersion, kNewestVersion);
  return version;
}

}  // namespace

std::string_view gguf_value_type_name(GgufValueType type) {
  return kValueTypeNames[static_cast<uint32_t>(type)];
}

std::string GgufValue::type_text() const {
  const std::string_view name = gguf_value_type_name(type);
  return is_array ? fmt::format("array of {} {}", count, name) : std::string(name);
}

size_t GgufTensor::elements() const { return rows() * columns(); }

size_t GgufTensor::columns() const { return shape.empty() ? 1 : shape[0]; }

size_t GgufTensor::rows() const {
  size_t count = 1;
  for (size_t i = 1; i < shape.size(); ++i) count *= shape[i];
  return count;
}

GgufFile GgufFile::open(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  GgufFile result = parse(file.bytes(), path.string());
  result.file_ = file;
  return result;
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, std::string what) {
  GgufFile result;
  with_context(what, [&] {
    Cursor cursor(bytes);
    result.version_ = read_version(cursor);
    // Every tensor comes after the values, so both counts are checked against what follows.
    const size_t tensor_count = cursor.count(kMinTensorBytes, "tensors");
    const size_t value_count = cursor.count(kMinValueBytes, "metadata values");

    result.values_.reserve(std::min(value_count, kMaxReserve));
    for (size_t i = 0; i < value_count; ++i) {
      const size_t at = cursor.position();
      GgufValue value;
      value.key = cursor.string("a key");
      require(!value.key.empty() && value.key.size() <= kMaxKeyBytes,
              "byte {}: a key of {} bytes; 1 to {} are allowed", at, value.key.size(),
              kMaxKeyBytes);
      with_context(fmt::format("key '{}'", value.key), [&] { read_value(cursor, value); });
      require(result.value_index_.emplace(value.key, i).second, "byte {}: duplicate key '{}'", at,
              value.key);
      result.values_.push_back(std::move(value));
    }

    result.alignment_ = kDefaultAlignment;
    if (const GgufValue* alignment = result.find(kAlignmentKey)) {
      require(!alignment->is_array && alignment->type == GgufValueType::u32,
              "key '{}': expected u32, found {}", kAlignmentKey, alignment->type_text());
      result.alignment_ = load<uint32_t>(alignment->bytes.data());
      require(std::has_single_bit(result.alignment_), "key '{}': {} is not a power of two",
              kAlignmentKey, result.alignment_);
    }

    result.tensors_.reserve(std::min(tensor_count, kMaxReserve));
    for (size_t i = 0; i < tensor_count; ++i) {
      const size_t at = cursor.position();
      std::string name(cursor.string("a tensor name"));
      require(!name.empty() && name.size() <= kMaxTensorNameBytes,
              "byte {}: a tensor name of {} bytes; 1 to {} are allowed", at, name.size(),
              kMaxTensorNameBytes);
      require(result.tensor_index_.emplace(name, i).second, "byte {}: duplicate tensor '{}'", at,
              name);
      result.tensors_.push_back(with_context(fmt::format("tensor '{}' (byte {})", name, at),
                                             [&] { return read_tensor(cursor, name); }));
    }
    const size_t padding =
        (result.alignment_ - cursor.position() % result.alignment_) % result.alignment_;
    place_tensors(result.tensors_, bytes, cursor.position() + padding, result.alignment_);
  });
  result.what_ = std::move(what);
  return result;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = value_index_.find(key);
  return found == value_index_.end() ? nullptr : &values_[found->second];
}

const GgufValue& GgufFile::value(std::string_view key) const {
  const GgufValue* found = find(key);
  require(found != nullptr, "{}: key '{}' is missing", what_, key);
  return *found;
}

void GgufFile::fail_type(const GgufValue& value, std::string_view wanted) const {
  fail("{}: key '{}': expected {}, found {}", what_, value.key, wanted, value.type_text());
}

const GgufValue& GgufFile::value_of(std::string_view key, bool array,
                                    std::string_view wanted) const {
  const GgufValue& found = value(key);
  if (found.is_array != array) fail_type(found, wanted);
  return found;
}

int64_t GgufFile::integer_at(const GgufValue& value, size_t i) const {
  const std::byte* at = value.bytes.data() + i * value_type_bytes(value.type);
  switch (value.type) {
    case GgufValueType::u8:
    case GgufValueType::boolean:
      return load<uint8_t>(at);
    case GgufValueType::i8:
      return load<int8_t>(at);
    case GgufValueType::u16:
      return load<uint16_t>(at);
    case GgufValueType::i16:
      return load<int16_t>(at);
    case GgufValueType::u32:
      return load<uint32_t>(at);
    case GgufValueType::i32:
      return load<int32_t>(at);
    case GgufValueType::i64:
      return load<int64_t>(at);
    case GgufValueType::u64: {
      const auto number = load<uint64_t>(at);
      require(number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
              "{}: key '{}': {} does not fit a signed 64-bit integer", what_, value.key, number);
      return static_cast<int64_t>(number);
    }
    default:
      fail_type(value, "integers");
  }
}

int64_t GgufFile::integer(std::string_view key) const {
  const GgufValue& found = value_of(key, false, "an integer");
  if (found.type == GgufValueType::boolean) fail_type(found, "an integer");
  return integer_at(found, 0);
}

size_t GgufFile::size(std::string_view key, size_t max) const {
  const int64_t number = integer(key);
  require(number >= 0 && static_cast<uint64_t>(number) <= max,
          "{}: key '{}': {} is not in the range 0 to {}", what_, key, number, max);
  return static_cast<size_t>(number);
}

size_t GgufFile::size_or(std::string_view key, size_t fallback, size_t max) const {
  return contains(key) ? size(key, max) : fallback;
}

double GgufFile::real(std::string_view key) const {
  const GgufValue& found = value_of(key, false, "a number");
  if (found.type == GgufValueType::f32) return load<float>(found.bytes.data());
  if (found.type == GgufValueType::f64) return load<double>(found.bytes.data());
  return static_cast<double>(integer(key));
}

double GgufFile::real_or(std::string_view key, double fallback) const {
  return contains(key) ? real(key) : fallback;
}

bool GgufFile::boolean(std::string_view key) const {
  const GgufValue& found = value_of(key, false, "a boolean");
  if (found.type != GgufValueType::boolean) fail_type(found, "a boolean");
  return found.bytes[0] != std::byte{0};
}

bool GgufFile::boolean_or(std::string_view key, bool fallback) const {
  return contains(key) ? boolean(key) : fallback;
}

std::string_view GgufFile::string(std::string_view key) const {
  const GgufValue& found = value_of(key, false, "a string");
  if (found.type != GgufValueType::string) fail_type(found, "a string");
  return Cursor(found.bytes).string("a string");
}

std::string_view GgufFile::string_or(std::string_view key, std::string_view fallback) const {
  return contains(key) ? string(key) : fallback;
}

std::vector<int64_t> GgufFile::integers(std::string_view key) const {
  const GgufValue& found = value_of(key, true, "an array of integers");
  std::vector<int64_t> numbers(found.count);
  for (size_t i = 0; i < found.count; ++i) numbers[i] = integer_at(found, i);
  return numbers;
}

std::vector<float> GgufFile::floats(std::string_view key) const {
  const GgufValue& found = value_of(key, true, "an array of floats");
  std::vector<float> numbers(found.count);
  for (size_t i = 0; i < found.count; ++i) {
    if (found.type == GgufValueType::f32) {
      numbers[i] = load<float>(found.bytes.data() + i * sizeof(float));
    } else if (found.type == GgufValueType::f64) {
      numbers[i] = static_cast<float>(load<double>(found.bytes.data() + i * sizeof(double)));
    } else {
      fail_type(found, "an array of floats");
    }
  }
  return numbers;
}

std::vector<std::string_view> GgufFile::strings(std::string_view key) const {
  const GgufValue& found = value_of(key, true, "an array of strings");
  if (found.type != GgufValueType::string) fail_type(found, "an array of strings");
  std::vector<std::string_view> texts(found.count);
  Cursor cursor(found.bytes);
  for (std::string_view& text : texts) text = cursor.string("a string");
  return texts;
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  require(found != tensor_index_.end(), "{}: there is no tensor '{}'", what_, name);
  return tensors_[found->second];
}

}  // namespace fewbit
