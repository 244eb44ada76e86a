// GGUF files, versions 2 and 3: metadata and tensors as named bytes, nothing decoded
// (docs/formats/gguf.md).
//
// The whole directory of the file is checked when it is opened: every count against the bytes that
// are left, every offset against the end of the file, tensors against each other. Errors name the
// file and the key, tensor or byte offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/file.h"
#include "fewbit/io/ggml_types.h"

namespace fewbit {

enum class GgufValueType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// "u32", "string", ...
std::string_view gguf_value_type_name(GgufValueType type);

// One metadata value: a scalar or a string is an array of one that says so.
struct GgufValue {
  std::string key;
  bool is_array = false;
  GgufValueType type = GgufValueType::u8;  // Of the elements.
  size_t count = 1;
  std::span<const std::byte> bytes;  // Of the elements, as stored.

  // "array of 3 i32", "u32": for errors and listings.
  std::string type_text() const;
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  // Extents as GGUF has them: shape[0] is the contiguous one (a matrix's input dimension).
  std::vector<size_t> shape;
  size_t offset = 0;  // In the file.
  std::span<const std::byte> bytes;

  size_t elements() const;
  // The tensor as a matrix [rows, columns] with columns = shape[0]; a scalar is [1, 1].
  size_t columns() const;
  size_t rows() const;
};

class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);
  // The same over bytes that the caller keeps alive; `what` names them in errors.
  static GgufFile parse(std::span<const std::byte> bytes, std::string what);

  uint32_t version() const { return version_; }
  size_t alignment() const { return alignment_; }
  // The path, for errors of the caller's own.
  const std::string& what() const { return what_; }

  // Metadata, in file order.
  const std::vector<GgufValue>& values() const { return values_; }
  bool contains(std::string_view key) const { return find(key) != nullptr; }
  // nullptr if absent.
  const GgufValue* find(std::string_view key) const;
  // Error if absent.
  const GgufValue& value(std::string_view key) const;

  // Typed access: an integer of any width, a float of any width (or an integer), ... A missing key,
  // another type or a value out of range is an Error that names file and key. The `_or` forms give
  // `fallback` for a missing key only.
  int64_t integer(std::string_view key) const;
  // An integer in [0, max].
  size_t size(std::string_view key, size_t max) const;
  size_t size_or(std::string_view key, size_t fallback, size_t max) const;
  double real(std::string_view key) const;
  double real_or(std::string_view key, double fallback) const;
  bool boolean(std::string_view key) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  // Bytes of the mapped file, not checked to be UTF-8.
  std::string_view string(std::string_view key) const;
  std::string_view string_or(std::string_view key, std::string_view fallback) const;
  // Arrays; integers() also takes booleans as 0 and 1.
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<float> floats(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;

  // In data order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  bool contains_tensor(std::string_view name) const { return tensor_index_.contains(name); }
  // Error if absent.
  const GgufTensor& tensor(std::string_view name) const;

 private:
  const GgufValue& value_of(std::string_view key, bool array, std::string_view wanted) const;
  [[noreturn]] void fail_type(const GgufValue& value, std::string_view wanted) const;
  int64_t integer_at(const GgufValue& value, size_t i) const;

  MappedFile file_;
  std::string what_;
  uint32_t version_ = 0;
  size_t alignment_ = 0;
  std::vector<GgufValue> values_;
  std::map<std::string, size_t, std::less<>> value_index_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
};

}  // namespace fewbit
