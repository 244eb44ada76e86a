// Any safetensors file whose metadata describes a matrix "m" is that matrix or a fewbit::Error; a
// good one decodes and survives being written and read again.
#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/quantized_matrix.h"
#include "fewbit/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fewbit;
  set_thread_count(1);
  try {
    const auto file = SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    const auto matrix = QuantizedMatrix::from_tensors(
        parse_json(file.metadata("m"), "m"), "m",
        [&](std::string_view name) { return file.contains(name) ? &file.tensor(name) : nullptr; });
    if (matrix.stored_bytes() > size) __builtin_trap();
    (void)matrix.dequantize();
    if (QuantizedMatrix::from_tensors(matrix.to_tensors("n"), "n") != matrix) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
