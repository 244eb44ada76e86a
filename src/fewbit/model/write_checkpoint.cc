#include "fewbit/model/write_checkpoint.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/formats/stored_floats.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/fewbit_directory.h"
#include "fewbit/model/stored_source.h"
#include "fewbit/model/tensor_names.h"

namespace fewbit {
namespace {

using Declaration = SafetensorsWriter::Declaration;

// A stored tensor, made when its turn comes.
struct Item {
  Declaration declaration;
  std::function<std::vector<std::byte>()> make;
};

bool holds_exactly(Dtype dtype, std::span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [&](float value) { return round_to_dtype(dtype, value) == value; });
}

Dtype choose_dtype(WriteDtype wanted, const std::function<std::vector<float>()>& values) {
  switch (wanted) {
    case WriteDtype::f32:
      return Dtype::f32;
    case WriteDtype::f16:
      return Dtype::f16;
    case WriteDtype::bf16:
      return Dtype::bf16;
    case WriteDtype::exact:
      break;
  }
  const std::vector<float> all = values();
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) {
    if (holds_exactly(dtype, all)) return dtype;
  }
  return Dtype::f32;
}

Item float_item(WriteDtype wanted, std::string name, std::vector<size_t> shape,
                std::function<std::vector<float>()> values) {
  const Dtype dtype = choose_dtype(wanted, values);
  Item item{{name, dtype, std::move(shape)}, {}};
  item.make = [dtype, name, values = std::move(values)] {
    return encode_floats(dtype, values(), name);
  };
  return item;
}

void write_items(const std::filesystem::path& directory, std::span<const Item> items,
                 const Json& config, const WriteOptions& options) {
  std::vector<Declaration> declarations;
  for (const Item& item : items) declarations.push_back(item.declaration);
  HfDirectoryWriter writer(directory, options.replace, std::move(declarations),
                           options.max_shard_bytes);
  for (const Item& item : items) writer.write(item.make());
  writer.write_text("config.json", config.dump(1) + "\n");
  if (options.training) {
    writer.write_text("training.json", training_record_json(*options.training).dump(1) + "\n");
  }
  for (const std::filesystem::path& file : options.copied_files) writer.copy_file(file);
  for (const auto& [name, text] : options.texts) writer.write_text(name, text);
  writer.commit();
}

std::string_view torch_dtype(WriteDtype dtype) {
  if (dtype == WriteDtype::f16) return "float16";
  if (dtype == WriteDtype::bf16) return "bfloat16";
  return "float32";
}

}  // namespace

WriteDtype parse_write_dtype(std::string_view word) {
  constexpr std::array<std::pair<std::string_view, WriteDtype>, 4> kWords = {
      {{"f32", WriteDtype::f32},
       {"f16", WriteDtype::f16},
       {"bf16", WriteDtype::bf16},
       {"exact", WriteDtype::exact}}};
  for (const auto& [known, dtype] : kWords) {
    if (known == word) return dtype;
  }
  fail("'{}' is no type to write (allowed: f32, f16, bf16, exact)", word);
}

std::vector<std::filesystem::path> companion_files(const Checkpoint& checkpoint) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::is_directory(checkpoint.path)) return files;
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", kGgufTokenizerName, "special_tokens_map.json",
        "generation_config.json", "chat_template.jinja"}) {
    const std::filesystem::path file = checkpoint.path / name;
    if (std::filesystem::is_regular_file(file)) files.push_back(file);
  }
  return files;
}

void write_hf_checkpoint(const std::filesystem::path& directory, const ModelSpec& spec,
                         const TensorSource& tensors, const WriteOptions& options) {
  check_tensors(spec, tensors);
  require(options.activations.is_null(),
          "a Hugging Face directory cannot say how activations are quantized");
  ModelSpec stated = spec;
  // hf_bindings brings the norms of a Gemma from GGUF into this form.
  if (spec.architecture.starts_with("gemma")) stated.norm_plus_one = true;
  const Json config = hf_config(stated, torch_dtype(options.dtype));
  const std::vector<std::vector<TensorBinding>> groups =
      group_by_stored(hf_bindings(spec, hf_name_prefixes(spec.architecture).front()));
  std::vector<Item> items;
  for (const std::vector<TensorBinding>& group : groups) {
    items.push_back(float_item(options.dtype, group.front().stored, group.front().stored_shape,
                               [&] { return load_stored(group, tensors); }));
  }
  write_items(directory, items, config, options);
}

void write_fewbit_checkpoint(const std::filesystem::path& directory, const ModelSpec& spec,
                             const TensorSource& tensors,
                             const std::map<std::string, QuantizedMatrix, std::less<>>& quantized,
                             const WriteOptions& options) {
  spec.validate();
  check_tensors(spec, tensors);
  Json descriptions = Json::object();
  std::vector<Item> items;
  size_t used = 0;
  for (const TensorBinding& binding : canonical_bindings(spec)) {
    const std::string layer = binding.canonical.substr(0, binding.canonical.rfind('.'));
    const auto codes = quantized.find(layer);
    if (codes == quantized.end() || !binding.canonical.ends_with(".weight")) {
      items.push_back(
          float_item(options.dtype, binding.canonical, binding.shape,
                     [&tensors, name = binding.canonical] { return tensors.load(name); }));
      continue;
    }
    const QuantizedMatrix& matrix = codes->second;
    require(matrix.rows() == binding.shape[0] && matrix.cols() == binding.shape[1],
            "{}: codes of [{}, {}] should be [{}, {}]", layer, matrix.rows(), matrix.cols(),
            binding.shape[0], binding.shape[1]);
    ++used;
    QuantizedMatrix::Serialized serialized = matrix.to_tensors(layer);
    descriptions[layer] = std::move(serialized.description);
    for (size_t part = 0; part < serialized.tensors.size(); ++part) {
      const NamedTensor& tensor = serialized.tensors[part];
      items.push_back({{tensor.name, tensor.dtype, tensor.shape}, [&matrix, layer, part] {
                         return std::move(matrix.to_tensors(layer).tensors[part].bytes);
                       }});
    }
  }
  require(used == quantized.size(), "{} of the quantized layers are no linears of this model",
          quantized.size() - used);
  write_items(directory, items, fewbit_config(spec, descriptions, options.activations), options);
}

}  // namespace fewbit
