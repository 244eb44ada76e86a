// Any bytes are a llama2.c checkpoint or a fewbit::Error; every tensor of a good one can be read.
#include "fewbit/base/error.h"
#include "fewbit/io/llama2c.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fewbit;
  try {
    const auto file = Llama2cFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    for (const TensorView& tensor : file.tensors()) (void)to_floats(tensor);
    (void)to_floats(file.layer("w2", file.header().layers - 1));
  } catch (const Error&) {
  }
  return 0;
}
