#include "fewbit/io/gguf_metadata.h"

#include "fewbit/io/gguf_writer.h"

namespace fewbit {

std::string gguf_metadata_bytes(const GgufFile& file) {
  GgufMetadata metadata;
  for (const GgufValue& value : file.values()) metadata.add(value);
  return metadata.header(/*tensors=*/0);
}

}  // namespace fewbit
