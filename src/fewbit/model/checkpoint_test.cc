#include "fewbit/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "fewbit/base/file.h"
#include "fewbit/base/half.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/tensor_names.h"
#include "fewbit/model/wiring.h"
#include "fewbit/model/write_checkpoint.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path fixture(const std::string& name) { return testing::test_data_root() / "models" / name; }

std::string error_of(const fs::path& path) {
  try {
    open_checkpoint(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void expect_equal_tensors(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.tensors->names(), b.tensors->names());
  for (const std::string& name : a.tensors->names()) {
    EXPECT_EQ(a.tensors->shape(name), b.tensors->shape(name)) << name;
    EXPECT_EQ(a.tensors->load(name), b.tensors->load(name)) << name;
  }
}

FEWBIT_FIXTURE_TEST_FOLDERS(CheckpointFixture, "models") {
  if (path().filename() == "bitnet") return;
  const Checkpoint original = open_checkpoint(path());
  EXPECT_EQ(original.kind, CheckpointKind::hf);
  testing::TemporaryDirectory folder;

  // Fused, transposed and renamed back: the very tensors of the original file.
  write_hf_checkpoint(folder / "hf", original.spec, *original.tensors);
  const Checkpoint copy = open_checkpoint(folder / "hf");
  EXPECT_EQ(copy.spec, original.spec);
  expect_equal_tensors(original, copy);
  const SafetensorsFile before = SafetensorsFile::open(path() / "model.safetensors");
  const SafetensorsFile after = SafetensorsFile::open(folder / "hf" / "model.safetensors");
  for (const TensorView& tensor : after.tensors()) {
    ASSERT_TRUE(before.contains(tensor.name)) << tensor.name;
    EXPECT_EQ(tensor.shape, before.tensor(tensor.name).shape) << tensor.name;
    EXPECT_EQ(to_floats(tensor), to_floats(before.tensor(tensor.name))) << tensor.name;
  }

  write_fewbit_checkpoint(folder / "fewbit", original.spec, *original.tensors, {});
  const Checkpoint own = open_checkpoint(folder / "fewbit");
  EXPECT_EQ(own.kind, CheckpointKind::fewbit);
  EXPECT_EQ(own.spec, original.spec);
  expect_equal_tensors(original, own);
}

TEST(RowMapTest, StoredOrdersArePermutationsOfAFusedTensor) {
  const ModelSpec neox = open_checkpoint(fixture("gpt_neox")).spec;
  const ModelSpec llama = open_checkpoint(fixture("llama")).spec;
  for (const auto& [bindings, name] :
       {std::pair(hf_bindings(neox, {}), "layers.0.attention.query_key_value.weight"),
        std::pair(gguf_bindings(neox), "blk.0.attn_qkv.weight"),
        std::pair(gguf_bindings(llama), "blk.1.attn_q.weight")}) {
    std::set<size_t> rows;
    size_t count = 0, stored = 0;
    for (const TensorBinding& binding : bindings) {
      if (binding.stored != name) continue;
      stored = binding.stored_shape[0];
      for (size_t r = 0; r < binding.shape[0]; ++r, ++count)
        rows.insert(binding.rows.stored_row(r));
    }
    EXPECT_GT(count, 0u) << name;
    EXPECT_EQ(count, stored) << name;
    EXPECT_EQ(rows.size(), stored) << name;
    EXPECT_EQ(*rows.rbegin(), stored - 1) << name;
  }
}

TEST(RowMapTest, GgufInterleavesTheHalvesOfAHead) {
  const RowMap rows{RowMap::Kind::interleaved, 0, 0, 1, 8};
  // Row h D + 2 i + j of the file is row h D + j D/2 + i.
  for (size_t h = 0; h < 3; ++h) {
    for (size_t i = 0; i < 4; ++i) {
      for (size_t j = 0; j < 2; ++j)
        EXPECT_EQ(rows.stored_row(h * 8 + j * 4 + i), h * 8 + 2 * i + j);
    }
  }
}

TEST(CheckpointTest, AMissingTensorIsNamedAsTheFileWouldNameIt) {
  testing::TemporaryDirectory folder;
  const SafetensorsFile file = SafetensorsFile::open(fixture("qwen2") / "model.safetensors");
  std::vector<TensorToWrite> tensors;
  for (const TensorView& tensor : file.tensors()) {
    if (tensor.name == "model.layers.1.self_attn.k_proj.bias") continue;
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
  }
  fs::copy(fixture("qwen2") / "config.json", folder / "config.json");
  write_safetensors(folder / "model.safetensors", tensors);
  EXPECT_THAT(error_of(folder.path()), HasSubstr("model.layers.1.self_attn.k_proj.bias"));
}

TEST(CheckpointTest, AWrongShapeIsNamedWithTheRightOne) {
  testing::TemporaryDirectory folder;
  Json config = parse_json(read_text_file(fixture("llama") / "config.json"), "config.json");
  config["intermediate_size"] = 97;
  write_file_atomically(folder / "config.json", config.dump());
  fs::copy(fixture("llama") / "model.safetensors", folder / "model.safetensors");
  EXPECT_THAT(error_of(folder.path()),
              HasSubstr("model.layers.0.mlp.gate_proj.weight: shape [96, 64] should be [97, 64]"));
}

TEST(CheckpointTest, PathsThatAreNoModelAreRefused) {
  testing::TemporaryDirectory folder;
  EXPECT_THAT(error_of(folder / "absent"), HasSubstr("no such file or directory"));
  EXPECT_THAT(error_of(folder.path()), HasSubstr("config.json"));
  write_file_atomically(folder / "notes.txt", "not a model");
  EXPECT_THAT(error_of(folder / "notes.txt"), HasSubstr("is no model"));
}

TEST(CheckpointTest, NamesMayLackOrCarryAPrefix) {
  const Checkpoint original = open_checkpoint(fixture("gpt2"));
  testing::TemporaryDirectory folder;
  const SafetensorsFile file = SafetensorsFile::open(fixture("gpt2") / "model.safetensors");
  std::vector<TensorToWrite> tensors;
  constexpr std::string_view kPrefix = "transformer.";
  for (const TensorView& tensor : file.tensors()) {
    std::string name = tensor.name;
    name = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : std::string(kPrefix) + name;
    tensors.push_back({name, tensor.dtype, tensor.shape, tensor.bytes});
  }
  fs::copy(fixture("gpt2") / "config.json", folder / "config.json");
  write_safetensors(folder / "model.safetensors", tensors);
  expect_equal_tensors(original, open_checkpoint(folder.path()));
}

TEST(CheckpointTest, ShardsAndHalfTypesReadBackRounded) {
  const Checkpoint original = open_checkpoint(fixture("llama"));
  testing::TemporaryDirectory folder;
  WriteOptions options;
  options.dtype = WriteDtype::bf16;
  options.max_shard_bytes = 20'000;
  write_hf_checkpoint(folder / "model", original.spec, *original.tensors, options);
  EXPECT_TRUE(fs::exists(folder / "model" / "model.safetensors.index.json"));
  const Checkpoint copy = open_checkpoint(folder / "model");
  for (const std::string& name : original.tensors->names()) {
    const std::vector<float> exact = original.tensors->load(name),
                             rounded = copy.tensors->load(name);
    EXPECT_EQ(copy.tensors->info(name).stored_type, "BF16");
    for (size_t i = 0; i < exact.size(); ++i) {
      ASSERT_EQ(rounded[i], bf16_to_float(float_to_bf16(exact[i]))) << name;
    }
  }
}

TEST(CheckpointTest, ExactWritingTakesTheSmallestTypeThatLosesNothing) {
  ModelSpec spec = open_checkpoint(fixture("llama")).spec;
  const auto tensors = random_tensors(spec, 7);
  testing::TemporaryDirectory folder;
  write_fewbit_checkpoint(folder / "model", spec, *tensors, {});
  const Checkpoint copy = open_checkpoint(folder / "model");
  EXPECT_EQ(copy.tensors->info("blocks.0.attn_norm.weight").stored_type, "BF16");  // Ones.
  EXPECT_EQ(copy.tensors->info("blocks.0.attn.q.weight").stored_type, "F32");
  for (const std::string& name : tensors->names()) {
    EXPECT_EQ(copy.tensors->load(name), tensors->load(name));
  }
}

TEST(CheckpointTest, CodesReadBackBitForBit) {
  const Checkpoint original = open_checkpoint(fixture("gpt_neox"));
  std::map<std::string, QuantizedMatrix, std::less<>> quantized;
  RandomStream random(3, "codes");
  for (const std::string& layer : quantizable_linears(original.spec)) {
    if (layer.ends_with(".o")) continue;
    const std::vector<size_t> shape = original.tensors->shape(layer + ".weight");
    UniformPlane plane(shape[0], shape[1], 3, 16, UniformPlane::ZeroPoint::integer, Dtype::f16);
    std::vector<uint8_t> row(shape[1]);
    for (size_t r = 0; r < shape[0]; ++r) {
      for (uint8_t& code : row) code = static_cast<uint8_t>(random.below(8));
      plane.codes.set_row(r, row);
    }
    for (size_t i = 0; i < plane.scales.size(); ++i) {
      plane.scales.set(i, static_cast<float>(random.uniform()));
    }
    quantized.emplace(layer, QuantizedMatrix(plane));
  }
  testing::TemporaryDirectory folder;
  WriteOptions options{.dtype = WriteDtype::exact};
  options.training = TrainingRecord{.run = "pythia", .tokens = 1000, .seed = 3};
  write_fewbit_checkpoint(folder / "model", original.spec, *original.tensors, quantized, options);
  const Checkpoint copy = open_checkpoint(folder / "model");
  EXPECT_EQ(copy.training, options.training);
  for (const std::string& name : original.tensors->names()) {
    const std::string layer = name.substr(0, name.rfind('.'));
    const auto codes = quantized.find(layer);
    if (codes == quantized.end() || name.ends_with(".bias")) {
      EXPECT_EQ(copy.tensors->load(name), original.tensors->load(name)) << name;
      EXPECT_FALSE(copy.tensors->quantized(layer) && name.ends_with(".weight")) << name;
      continue;
    }
    EXPECT_EQ(copy.tensors->quantized(layer), codes->second);
    EXPECT_EQ(copy.tensors->load_matrix(name), codes->second.dequantize());
    EXPECT_EQ(copy.tensors->info(name).stored_bytes, codes->second.stored_bytes());
  }
}

TEST(CheckpointTest, TheHashTellsContentsApartAndNotPlaces) {
  testing::TemporaryDirectory folder;
  fs::copy(fixture("llama"), folder / "copy");
  const std::string hash = open_checkpoint(fixture("llama")).hash;
  EXPECT_EQ(open_checkpoint(folder / "copy").hash, hash);
  Json config = parse_json(read_text_file(folder / "copy" / "config.json"), "config.json");
  config["rope_theta"] = 400000.0;
  write_file_atomically(folder / "copy" / "config.json", config.dump());
  EXPECT_NE(open_checkpoint(folder / "copy").hash, hash);
}

TEST(CheckpointTest, TrainingRecordsReadBack) {
  testing::TemporaryDirectory folder;
  const TrainingRecord record{"run-3", 1000, 20000, 5, 512, 3e-4, "cosine", 7};
  write_training_record(folder / "training.json", record);
  EXPECT_EQ(read_training_record(folder / "training.json"), record);
  write_file_atomically(folder / "training.json", R"({"tokens": "many"})");
  EXPECT_THROW(read_training_record(folder / "training.json"), Error);
}

TEST(CheckpointTest, LoadingDoesNotDependOnThreads) {
  const Checkpoint checkpoint = open_checkpoint(fixture("gpt2"));
  const size_t threads = thread_count();
  set_thread_count(1);
  const std::vector<float> one = checkpoint.tensors->load("blocks.0.attn.k.weight");
  set_thread_count(4);
  EXPECT_EQ(checkpoint.tensors->load("blocks.0.attn.k.weight"), one);
  set_thread_count(threads);
}

}  // namespace
}  // namespace fewbit
