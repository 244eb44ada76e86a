// Any bytes are a GGUF file or a fewbit::Error; every value and tensor of a good one can be read.
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/formats/ggml_blocks.h"
#include "fewbit/io/gguf.h"

namespace {

// As a caller would who expects a certain type of every key.
template <class Read>
void try_read(Read read) {
  try {
    (void)read();
  } catch (const fewbit::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fewbit;
  try {
    const auto file = GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    for (const GgufValue& value : file.values()) {
      const std::string& key = value.key;
      try_read([&] { return file.integer(key); });
      try_read([&] { return file.size(key, 1000); });
      try_read([&] { return file.real(key); });
      try_read([&] { return file.boolean(key); });
      try_read([&] { return file.string(key).size(); });
      try_read([&] { return file.integers(key); });
      try_read([&] { return file.floats(key); });
      try_read([&] { return file.strings(key); });
    }
    size_t covered = 0;
    for (const GgufTensor& tensor : file.tensors()) {
      covered += tensor.bytes.size();
      if (covered > size) __builtin_trap();
      // Elements are bounded by the bytes that hold them.
      std::vector<float> values(tensor.elements());
      try_read([&] { return dequantize_ggml(tensor.type, tensor.bytes, values), 0; });
    }
  } catch (const Error&) {
  }
  return 0;
}
