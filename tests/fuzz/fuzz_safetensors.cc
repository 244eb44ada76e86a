// Any bytes are a safetensors file or a fewbit::Error; every tensor of a good one can be read.
#include "fewbit/base/error.h"
#include "fewbit/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fewbit;
  try {
    const auto file = SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    size_t covered = 0;
    for (const TensorView& tensor : file.tensors()) {
      if (tensor.bytes.size() != tensor.elements() * dtype_bytes(tensor.dtype)) __builtin_trap();
      if (&file.tensor(tensor.name) != &tensor) __builtin_trap();
      covered += tensor.bytes.size();
      try {
        (void)to_floats(tensor);
      } catch (const Error&) {
        (void)to_integers(tensor);
      }
    }
    if (covered > size) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
