#include "fewbit/io/hf_directory.h"

#include <set>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kPickledFiles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};

// File names come from an index that anybody may have written: none may lead out of the directory.
void require_plain_name(std::string_view name, std::string_view what) {
  require(!name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
              name.find('\0') == name.npos,
          "{}: '{}' is not a plain file name", what, name);
}

struct Index {
  std::map<std::string, std::string> shard_of;  // Tensor -> file.
  std::set<std::string> shards;
};

Index read_index(const std::filesystem::path& path) {
  const Json json = parse_json(read_text_file(path, kMaxModelTextBytes), path.string());
  require(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object(),
          "{}: key 'weight_map' is missing or not an object", path.string());
  Index index;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    require(file.is_string(), "{}: weight_map: the file of tensor '{}' is not a string",
            path.string(), tensor);
    const auto& name = file.get_ref<const std::string&>();
    require_plain_name(name, fmt::format("{}: weight_map: tensor '{}'", path.string(), tensor));
    index.shard_of[tensor] = name;
    index.shards.insert(name);
  }
  return index;
}

[[noreturn]] void fail_without_weights(const std::filesystem::path& directory) {
  for (const char* name : kPickledFiles) {
    require(!std::filesystem::exists(directory / name),
            "{}: weights in {} (pickle) are not read; convert them to safetensors",
            directory.string(), name);
  }
  fail("{}: there is neither {} nor {}", directory.string(), kSingleFile, kIndexFile);
}

size_t declared_bytes(const SafetensorsWriter::Declaration& tensor) {
  size_t bytes = dtype_bytes(tensor.dtype);
  for (const size_t extent : tensor.shape) {
    require(!__builtin_mul_overflow(bytes, extent, &bytes), "tensor '{}': the size overflows",
            tensor.name);
  }
  return bytes;
}

}  // namespace

HfDirectory HfDirectory::open(const std::filesystem::path& directory) {
  require(std::filesystem::is_directory(directory), "{}: not a directory", directory.string());
  HfDirectory result;
  result.path_ = directory;
  Index index;
  if (std::filesystem::exists(directory / kSingleFile)) {
    index.shards.insert(kSingleFile);
  } else if (std::filesystem::exists(directory / kIndexFile)) {
    index = read_index(directory / kIndexFile);
  } else {
    fail_without_weights(directory);
  }

  std::vector<std::string> names;
  for (const std::string& shard : index.shards) {
    require(std::filesystem::exists(directory / shard), "{}: shard {} that {} names is missing",
            directory.string(), shard, kIndexFile);
    const SafetensorsFile& file =
        result.files_.emplace_back(SafetensorsFile::open(directory / shard));
    names.push_back(shard);
    for (size_t i = 0; i < file.tensors().size(); ++i) {
      const std::string& name = file.tensors()[i].name;
      const auto [found, inserted] = result.tensors_.try_emplace(name, result.files_.size() - 1, i);
      require(inserted, "{}: tensor '{}' is in {} and in {}", directory.string(), name,
              names[found->second.first], shard);
    }
  }
  for (const auto& [name, shard] : index.shard_of) {
    const auto found = result.tensors_.find(name);
    require(found != result.tensors_.end() && names[found->second.first] == shard,
            "{}: tensor '{}' is not in {}, where {} lists it", directory.string(), name, shard,
            kIndexFile);
  }
  return result;
}

std::vector<std::string> HfDirectory::tensor_names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& entry : tensors_) names.push_back(entry.first);
  return names;
}

const TensorView* HfDirectory::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return nullptr;
  return &files_[found->second.first].tensors()[found->second.second];
}

const TensorView& HfDirectory::tensor(std::string_view name) const {
  const TensorView* found = find(name);
  require(found != nullptr, "{}: there is no tensor '{}'", path_.string(), name);
  return *found;
}

bool HfDirectory::has_file(std::string_view name) const {
  require_plain_name(name, path_.string());
  return std::filesystem::is_regular_file(path_ / name);
}

std::string HfDirectory::text(std::string_view name, size_t max_bytes) const {
  require_plain_name(name, path_.string());
  return read_text_file(path_ / name, max_bytes);
}

Json HfDirectory::json(std::string_view name, size_t max_bytes) const {
  return parse_json(text(name, max_bytes), (path_ / name).string());
}

HfDirectoryWriter::HfDirectoryWriter(const std::filesystem::path& directory, bool replace,
                                     std::vector<SafetensorsWriter::Declaration> tensors,
                                     size_t max_shard_bytes,
                                     std::map<std::string, std::string> metadata)
    : directory_(directory, replace), metadata_(std::move(metadata)) {
  std::set<std::string> names;
  size_t shard_bytes = 0;
  shards_.emplace_back();
  for (SafetensorsWriter::Declaration& tensor : tensors) {
    require(names.insert(tensor.name).second, "{}: tensor '{}' is declared twice",
            directory.string(), tensor.name);
    const size_t bytes = declared_bytes(tensor);
    require(!__builtin_add_overflow(total_bytes_, bytes, &total_bytes_),
            "{}: tensor '{}': the total size overflows", directory.string(), tensor.name);
    const bool full = shard_bytes > max_shard_bytes || bytes > max_shard_bytes - shard_bytes;
    if (full && !shards_.back().tensors.empty()) {
      shards_.emplace_back();
      shard_bytes = 0;
    }
    shards_.back().tensors.push_back(std::move(tensor));
    shard_bytes += bytes;
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].file = shards_.size() == 1
                          ? kSingleFile
                          : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards_.size());
  }
  begin_shard();
}

void HfDirectoryWriter::begin_shard() {
  writer_.emplace(directory_.staging() / shards_[shard_].file, shards_[shard_].tensors, metadata_);
  tensor_ = 0;
}

void HfDirectoryWriter::finish_shard() {
  writer_->commit();
  writer_.reset();
  ++shard_;
}

void HfDirectoryWriter::write(std::span<const std::byte> bytes) {
  require(shard_ < shards_.size(), "{}: more tensors were written than declared",
          directory_.staging().string());
  if (!writer_) begin_shard();
  writer_->write(bytes);
  if (++tensor_ == shards_[shard_].tensors.size()) finish_shard();
}

void HfDirectoryWriter::write_text(std::string_view name, std::string_view text) {
  require_plain_name(name, directory_.staging().string());
  write_file_atomically(directory_.staging() / name, text);
}

void HfDirectoryWriter::copy_file(const std::filesystem::path& source) {
  const MappedFile file = MappedFile::open(source);
  write_text(source.filename().string(), as_text(file.bytes()));
}

void HfDirectoryWriter::commit() {
  // A model without tensors has one empty shard to finish; otherwise this names what is missing.
  while (shard_ < shards_.size()) {
    if (!writer_) begin_shard();
    finish_shard();
  }
  if (shards_.size() > 1) {
    nlohmann::ordered_json index;
    index["metadata"]["total_size"] = total_bytes_;
    for (const Shard& shard : shards_) {
      for (const auto& tensor : shard.tensors) index["weight_map"][tensor.name] = shard.file;
    }
    write_text(kIndexFile, index.dump(2) + "\n");
  }
  directory_.commit();
}

}  // namespace fewbit
