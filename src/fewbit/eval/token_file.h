// Files of token ids: text that has been tokenized elsewhere, or that a model has written.
//
//   .safetensors   an integer tensor "tokens" (or the only tensor); of two dimensions: a row is a
//                  document
//   .jsonl         a document a line: [1, 2, 3] or {"tokens": [1, 2, 3]} ("ids", "input_ids")
//   .u16 .u32      little-endian ids, one document; .bin is .u16
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace fewbit {

// Documents of at least one token. Errors name the file and the place; ids lie in [0, 2^31).
std::vector<std::vector<int32_t>> read_token_file(const std::filesystem::path& path);

// Writes documents of equal length as the safetensors tensor "tokens" [documents, length].
void write_token_file(const std::filesystem::path& path,
                      std::span<const std::vector<int32_t>> documents,
                      const std::string& description);

}  // namespace fewbit
