// safetensors files: named tensors as bytes, nothing decoded (docs/formats/safetensors.md).
//
// Layout: u64 n | n bytes of JSON | data. Every header is checked whole before a tensor is handed
// out: sizes, offsets, dtypes, that the tensors tile the data section without gap or overlap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/file.h"

namespace fewbit {

enum class Dtype {
  boolean,
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  u64,
  i64,
  f16,
  bf16,
  f32,
  f64,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0
};

// "F32", "BF16", ... as safetensors spells it.
std::string_view dtype_name(Dtype dtype);
size_t dtype_bytes(Dtype dtype);

// A tensor inside a mapped file or any other bytes that outlive it. Row-major. The data may be
// unaligned for its type.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<size_t> shape;
  std::span<const std::byte> bytes;

  size_t elements() const;
};

// Elements as floats: from F16, BF16, F32, F64; an Error that names the tensor for other types.
std::vector<float> to_floats(const TensorView& tensor);
// Elements as 64-bit integers: from BOOL and the integer types.
std::vector<int64_t> to_integers(const TensorView& tensor);

class SafetensorsFile {
 public:
  // Errors name the file, and the tensor or the header byte that is wrong.
  static SafetensorsFile open(const std::filesystem::path& path);
  // The same over bytes that the caller keeps alive; `what` names them in errors.
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::string what);

  // In data order.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  bool contains(std::string_view name) const;
  // Error if absent.
  const TensorView& tensor(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Error if absent.
  const std::string& metadata(std::string_view key) const;

 private:
  MappedFile file_;
  std::string what_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// Tensors to write: bytes are borrowed until the file is written.
struct TensorToWrite {
  std::string name;
  Dtype dtype;
  std::vector<size_t> shape;
  std::span<const std::byte> bytes;
};

// Writes one file, atomically; adds "format": "pt" to the metadata if it holds no "format".
// Same tensors, same bytes.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       std::map<std::string, std::string> metadata = {});

// Writes tensors one at a time, so that the whole model is never in memory: declare all of them
// first, then give the data in the same order.
class SafetensorsWriter {
 public:
  struct Declaration {
    std::string name;
    Dtype dtype;
    std::vector<size_t> shape;
  };
  SafetensorsWriter(const std::filesystem::path& path, std::vector<Declaration> tensors,
                    std::map<std::string, std::string> metadata = {});
  // Data of the next declared tensor; its size is checked.
  void write(std::span<const std::byte> bytes);
  // Error if a declared tensor was not written. Without commit() no file is left.
  void commit();

 private:
  AtomicFile file_;
  std::string what_;
  std::vector<Declaration> declared_;
  std::vector<size_t> sizes_;
  size_t next_ = 0;
};

}  // namespace fewbit
