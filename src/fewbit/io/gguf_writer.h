// Writing GGUF v3 files (docs/formats/gguf.md): metadata in the order it was added, tensors one at
// a time, each padded to the alignment. The same input gives the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/file.h"
#include "fewbit/io/gguf.h"

namespace fewbit {

// Metadata under construction. Error: a key that is already there.
class GgufMetadata {
 public:
  void add(std::string_view key, uint32_t value);
  void add(std::string_view key, int32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, const std::vector<bool>& values);
  // A value of another file, whatever its type.
  void add(const GgufValue& value);

  bool contains(std::string_view key) const { return keys_.contains(key); }
  // The beginning of a file of so many tensors, up to their descriptions.
  std::string header(size_t tensors) const;

 private:
  void begin(std::string_view key, GgufValueType type);

  std::set<std::string, std::less<>> keys_;
  std::string bytes_;
};

class GgufWriter {
 public:
  // Extents as GGUF has them: shape[0] is the contiguous one.
  struct Declaration {
    std::string name;
    GgmlType type;
    std::vector<size_t> shape;
  };
  // Errors: a name longer than 63 bytes or given twice, more than 4 extents, rows that are no whole
  // blocks, metadata with general.alignment (it is always 32).
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             std::vector<Declaration> tensors);
  // Data of the next declared tensor; its size is checked.
  void write(std::span<const std::byte> bytes);
  // Error if a declared tensor was not written.
  void commit();

 private:
  void pad();

  AtomicFile file_;
  std::string what_;
  std::vector<Declaration> declared_;
  size_t next_ = 0;
};

}  // namespace fewbit
