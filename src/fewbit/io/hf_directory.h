// Model directories as Hugging Face lays them out: weights in model.safetensors, or in shards with
// an index, and text files (config.json, tokenizer.json, ...) beside them.
//
// Index: {"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}; shards are named
// model-00001-of-00003.safetensors.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/io/safetensors.h"

namespace fewbit {

// Text files above this are refused; the largest tokenizer.json known has a seventh of it.
inline constexpr size_t kMaxModelTextBytes = size_t{256} << 20;

class HfDirectory {
 public:
  // Maps every weight file and checks its header; nothing is read beyond that. With both a single
  // file and an index, the single file counts. Errors: no weights; a shard that is missing or not a
  // plain file name; a tensor that the index lists but its shard lacks; a tensor in two shards.
  static HfDirectory open(const std::filesystem::path& directory);

  const std::filesystem::path& path() const { return path_; }
  // One, or the shards in the order of their names. Metadata stands here.
  const std::vector<SafetensorsFile>& files() const { return files_; }

  // Every tensor, by name.
  std::vector<std::string> tensor_names() const;
  bool contains(std::string_view name) const { return tensors_.contains(name); }
  // nullptr if absent.
  const TensorView* find(std::string_view name) const;
  // Error if absent.
  const TensorView& tensor(std::string_view name) const;

  // Files beside the weights. `name` is a plain file name.
  bool has_file(std::string_view name) const;
  // Error if absent or above `max_bytes`.
  std::string text(std::string_view name, size_t max_bytes = kMaxModelTextBytes) const;
  Json json(std::string_view name, size_t max_bytes = kMaxModelTextBytes) const;

 private:
  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  // Name -> (file, tensor in it); indices, so that copies stay right.
  std::map<std::string, std::pair<size_t, size_t>, std::less<>> tensors_;
};

// Writes such a directory, tensor by tensor; it appears whole at commit().
class HfDirectoryWriter {
 public:
  // What most published models use.
  static constexpr size_t kDefaultShardBytes = size_t{5} * 1000 * 1000 * 1000;

  // Tensors are written in the order declared here. A new shard begins where the data of the one
  // before it would exceed `max_shard_bytes`; a larger tensor has a shard of its own. `metadata`
  // goes into every shard. `replace`: an existing directory is replaced at commit().
  HfDirectoryWriter(const std::filesystem::path& directory, bool replace,
                    std::vector<SafetensorsWriter::Declaration> tensors,
                    size_t max_shard_bytes = kDefaultShardBytes,
                    std::map<std::string, std::string> metadata = {});

  // Data of the next declared tensor; its size is checked.
  void write(std::span<const std::byte> bytes);
  // A text file such as config.json. `name` is a plain file name.
  void write_text(std::string_view name, std::string_view text);
  // Copies a file of another directory under its own name.
  void copy_file(const std::filesystem::path& source);
  // Error if a declared tensor was not written. Without commit() nothing is left.
  void commit();

 private:
  struct Shard {
    std::string file;
    std::vector<SafetensorsWriter::Declaration> tensors;
  };
  void begin_shard();
  void finish_shard();

  AtomicDirectory directory_;
  std::map<std::string, std::string> metadata_;
  std::vector<Shard> shards_;
  size_t total_bytes_ = 0;
  std::optional<SafetensorsWriter> writer_;
  size_t shard_ = 0, tensor_ = 0;  // Of the next tensor.
};

}  // namespace fewbit
