#include "fewbit/io/gguf_metadata.h"

#include <cstdint>

namespace fewbit {
namespace {

constexpr uint32_t kVersion = 3;

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

std::string gguf_metadata_bytes(const GgufFile& file) {
  std::string out = "GGUF";
  append<uint32_t>(out, kVersion);
  append<uint64_t>(out, 0);  // tensors
  append<uint64_t>(out, file.values().size());
  for (const GgufValue& value : file.values()) {
    append<uint64_t>(out, value.key.size());
    out += value.key;
    if (value.is_array) {
      append<uint32_t>(out, static_cast<uint32_t>(GgufValueType::array));
      append<uint32_t>(out, static_cast<uint32_t>(value.type));
      append<uint64_t>(out, value.count);
    } else {
      append<uint32_t>(out, static_cast<uint32_t>(value.type));
    }
    out += as_text(value.bytes);
  }
  return out;
}

}  // namespace fewbit
