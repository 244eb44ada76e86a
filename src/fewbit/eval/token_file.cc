#include "fewbit/eval/token_file.h"

#include <cstring>
#include <limits>
#include <string_view>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/io/safetensors.h"

namespace fewbit {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

int32_t checked_id(int64_t value, size_t place) {
  require(value >= 0 && value <= std::numeric_limits<int32_t>::max(),
          "token {} at place {} is not an id", value, place);
  return static_cast<int32_t>(value);
}

Documents from_safetensors(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  const bool named = file.contains("tokens");
  require(named || file.tensors().size() == 1,
          "there is no tensor 'tokens', and {} others do not tell which to take",
          file.tensors().size());
  const TensorView& tensor = named ? file.tensor("tokens") : file.tensors().front();
  require(tensor.shape.size() == 1 || tensor.shape.size() == 2,
          "tensor {} has {} dimensions: token ids have one or two", tensor.name,
          tensor.shape.size());
  const std::vector<int64_t> values = to_integers(tensor);
  const size_t length = tensor.shape.back();
  Documents documents;
  for (size_t first = 0; first + length <= values.size() && length > 0; first += length) {
    auto& document = documents.emplace_back(length);
    for (size_t i = 0; i < length; ++i) document[i] = checked_id(values[first + i], first + i);
  }
  return documents;
}

std::vector<int32_t> from_json_line(std::string_view line) {
  const Json parsed = parse_json(line, "tokens");
  const Json* array = &parsed;
  if (parsed.is_object()) {
    array = nullptr;
    for (const char* key : {"tokens", "ids", "input_ids"}) {
      if (parsed.contains(key)) array = &parsed[key];
    }
    require(array != nullptr, "none of the keys tokens, ids, input_ids is there");
  }
  require(array->is_array(), "the tokens are not an array");
  std::vector<int32_t> document;
  document.reserve(array->size());
  for (const Json& id : *array) {
    require(id.is_number_integer(), "token {} at place {} is not an id", id.dump(),
            document.size());
    // An unsigned value beyond int64 turns negative, and is refused as such.
    document.push_back(checked_id(id.get<int64_t>(), document.size()));
  }
  return document;
}

Documents from_json_lines(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  Documents documents;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    ++number;
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    documents.push_back(
        with_context(fmt::format("line {}", number), [&] { return from_json_line(line); }));
  }
  return documents;
}

template <class Id>
Documents from_ids(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  const auto bytes = file.bytes();
  require(bytes.size() % sizeof(Id) == 0, "{} bytes are not whole ids of {} bytes", bytes.size(),
          sizeof(Id));
  Documents documents(1);
  documents[0].resize(bytes.size() / sizeof(Id));
  for (size_t i = 0; i < documents[0].size(); ++i) {
    Id id;
    std::memcpy(&id, bytes.data() + i * sizeof(Id), sizeof(Id));
    documents[0][i] = checked_id(static_cast<int64_t>(id), i);
  }
  return documents;
}

}  // namespace

Documents read_token_file(const std::filesystem::path& path) {
  return with_context(path.string(), [&] {
    const std::string extension = path.extension().string();
    Documents documents;
    if (extension == ".safetensors") {
      documents = from_safetensors(path);
    } else if (extension == ".jsonl") {
      documents = from_json_lines(path);
    } else if (extension == ".u16" || extension == ".bin") {
      documents = from_ids<uint16_t>(path);
    } else if (extension == ".u32") {
      documents = from_ids<uint32_t>(path);
    } else {
      fail("token files end in .safetensors, .jsonl, .u16, .bin or .u32");
    }
    require(!documents.empty(), "there are no tokens");
    for (size_t d = 0; d < documents.size(); ++d) {
      require(!documents[d].empty(), "document {} has no tokens", d);
    }
    return documents;
  });
}

void write_token_file(const std::filesystem::path& path,
                      std::span<const std::vector<int32_t>> documents,
                      const std::string& description) {
  require(!documents.empty(), "no tokens to write");
  const size_t length = documents.front().size();
  std::vector<int32_t> values;
  values.reserve(documents.size() * length);
  for (const auto& document : documents) {
    require(document.size() == length, "documents of {} and {} tokens do not make a matrix", length,
            document.size());
    values.insert(values.end(), document.begin(), document.end());
  }
  const TensorToWrite tensor{
      "tokens", Dtype::i32, {documents.size(), length}, std::as_bytes(std::span(values))};
  write_safetensors(path, std::span(&tensor, 1), {{"description", description}});
}

}  // namespace fewbit
