#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/file.h"
#include "fewbit/model/architectures.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

Json read_config(const std::filesystem::path& folder) {
  return parse_json(read_text_file(folder / "config.json"), "config.json");
}

Json fixture_config(const std::string& name) {
  return read_config(testing::test_data_root() / "models" / name);
}

std::string error_of(const Json& config) {
  try {
    parse_hf_config(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

FEWBIT_FIXTURE_TEST_FOLDERS(ConfigFixture, "models") {
  if (path().filename() == "bitnet") return;
  const ModelSpec spec = parse_hf_config(read_config(path()));
  EXPECT_EQ(parse_hf_config(hf_config(spec, "float32")), spec);
  EXPECT_EQ(spec_from_json(spec_to_json(spec)), spec);
}

TEST(ConfigTest, UnknownArchitectureIsRefusedWithTheKnownOnes) {
  const std::string error = error_of({{"model_type", "mamba"}});
  EXPECT_THAT(error, HasSubstr("'mamba'"));
  for (const Architecture& known : architectures()) EXPECT_THAT(error, HasSubstr(known.name));
}

TEST(ConfigTest, UnsupportedSettingsAreRefusedByKeyValueAndWhatIsAllowed) {
  Json config = fixture_config("llama");
  config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4}};
  EXPECT_THAT(error_of(config), HasSubstr("rope_scaling: key 'rope_type': 'yarn' is not supported "
                                          "(allowed: default, linear, llama3)"));
  config = fixture_config("llama");
  config["hidden_act"] = "quick_gelu";
  EXPECT_THAT(error_of(config), HasSubstr("key 'hidden_act': 'quick_gelu' is not supported"));
  config = fixture_config("llama");
  config["quantization_config"] = {{"quant_method", "hqq"}};
  EXPECT_THAT(error_of(config), HasSubstr("key 'quantization_config'"));
  config = fixture_config("llama");
  config["partial_rotary_factor"] = 0.5;
  EXPECT_THAT(error_of(config), HasSubstr("key 'partial_rotary_factor': 0.5"));
  config = fixture_config("gpt2");
  config["scale_attn_by_inverse_layer_idx"] = true;
  EXPECT_THAT(error_of(config), HasSubstr("key 'scale_attn_by_inverse_layer_idx': true"));
}

TEST(ConfigTest, MissingAndAbsurdSizesAreRefusedByName) {
  Json config = fixture_config("llama");
  config.erase("hidden_size");
  EXPECT_THAT(error_of(config), HasSubstr("'hidden_size'"));
  for (const Json& value : {Json(-1), Json(0), Json(1.5), Json("64"), Json(1ull << 62)}) {
    config["hidden_size"] = value;
    EXPECT_THAT(error_of(config), HasSubstr("hidden_size")) << value;
  }
  config = fixture_config("llama");
  config["num_hidden_layers"] = 2'000'000'000;
  EXPECT_THAT(error_of(config), HasSubstr("'num_hidden_layers'"));
  config = fixture_config("llama");
  config["num_key_value_heads"] = 3;
  EXPECT_THAT(error_of(config), HasSubstr("kv_heads: 3 does not divide heads = 4"));
  config = fixture_config("llama");
  config["num_attention_heads"] = 5;
  config.erase("head_dim");
  EXPECT_THAT(error_of(config), HasSubstr("'num_attention_heads'"));
}

TEST(ConfigTest, RopeParametersAreReadAsRopeThetaAndScalingAre) {
  Json old = fixture_config("llama"), fresh = old;
  fresh.erase("rope_theta");
  fresh.erase("rope_scaling");
  fresh["rope_parameters"] = old["rope_scaling"];
  fresh["rope_parameters"]["rope_theta"] = old["rope_theta"];
  EXPECT_EQ(parse_hf_config(fresh), parse_hf_config(old));
  // Older still: the type is spelt so.
  old["rope_scaling"]["type"] = old["rope_scaling"]["rope_type"];
  old["rope_scaling"].erase("rope_type");
  EXPECT_EQ(parse_hf_config(fresh), parse_hf_config(old));
}

TEST(ConfigTest, GemmaRopeParametersDifferByLayerType) {
  const Json old = fixture_config("gemma3");
  Json fresh = old;
  for (const char* key :
       {"rope_theta", "rope_scaling", "rope_local_base_freq", "sliding_window_pattern"}) {
    fresh.erase(key);
  }
  fresh["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1e4}}}};
  fresh["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(parse_hf_config(fresh), parse_hf_config(old));
}

TEST(ConfigTest, MultimodalGemmaUsesItsTextConfigAndTheDefaults) {
  const Json config = {{"model_type", "gemma3"},
                       {"eos_token_id", {1, 106}},
                       {"torch_dtype", "bfloat16"},
                       {"text_config",
                        {{"model_type", "gemma3_text"},
                         {"hidden_size", 2560},
                         {"intermediate_size", 10240},
                         {"num_hidden_layers", 34},
                         {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
                         {"sliding_window", 1024}}}};
  const ModelSpec spec = parse_hf_config(config);
  EXPECT_EQ(spec.architecture, "gemma3_text");
  EXPECT_EQ(spec.heads, 8u);
  EXPECT_EQ(spec.kv_heads, 4u);
  EXPECT_EQ(spec.head_size, 256u);
  EXPECT_EQ(spec.context, 131072u);
  EXPECT_EQ(spec.vocab_size, 262208u);
  EXPECT_EQ(spec.eos_tokens, (std::vector<int32_t>{1, 106}));
  EXPECT_EQ(spec.blocks[0].window, 1024u);
  EXPECT_EQ(spec.blocks[0].rope_base, 1e4);
  EXPECT_EQ(spec.blocks[0].rope_scaling.kind, RopeScaling::Kind::none);
  EXPECT_EQ(spec.blocks[5].window, 0u);
  EXPECT_EQ(spec.blocks[5].rope_base, 1e6);
  EXPECT_EQ(spec.blocks[5].rope_scaling.factor, 8);
  // sqrt(2560) = 50.596.. in bfloat16.
  EXPECT_EQ(spec.embedding_scale, 50.5);
}

TEST(ConfigTest, QwenWindowsBeginAfterTheFirstLayers) {
  Json config = fixture_config("qwen2");
  config["sliding_window"] = 16;
  config["max_window_layers"] = 1;
  for (const BlockSpec& block : parse_hf_config(config).blocks) EXPECT_EQ(block.window, 0u);
  config["use_sliding_window"] = true;
  const ModelSpec spec = parse_hf_config(config);
  EXPECT_EQ(spec.blocks[0].window, 0u);
  EXPECT_EQ(spec.blocks[1].window, 16u);
  EXPECT_EQ(parse_hf_config(hf_config(spec, "float32")), spec);
}

TEST(ConfigTest, MistralWindowIsOffOnlyWhenSaidSo) {
  Json config = fixture_config("mistral");
  config.erase("sliding_window");
  EXPECT_EQ(parse_hf_config(config).blocks[0].window, 4096u);
  config["sliding_window"] = nullptr;
  EXPECT_EQ(parse_hf_config(config).blocks[0].window, 0u);
}

TEST(ConfigTest, Opt350mHasNormsBehindTheAdditionsAndProjectedEmbeddings) {
  Json config = fixture_config("opt");
  config["do_layer_norm_before"] = false;
  config["word_embed_proj_dim"] = 32;
  const ModelSpec spec = parse_hf_config(config);
  EXPECT_FALSE(spec.norm_first);
  EXPECT_FALSE(spec.final_norm);
  EXPECT_EQ(spec.embedding_size, 32u);
  const std::vector<TensorSpec> tensors = model_tensors(spec);
  EXPECT_EQ(tensors[0].shape, (std::vector<size_t>{128, 32}));
  EXPECT_EQ(tensors[2].name, "embed_project_in.weight");
  EXPECT_EQ(tensors.back().name, "embed_project_out.weight");
  EXPECT_EQ(parse_hf_config(hf_config(spec, "float32")), spec);
}

TEST(ConfigTest, GenerationConfigDecidesTheEndTokens) {
  EXPECT_EQ(parse_hf_config(fixture_config("llama"), {{"eos_token_id", {2, 7}}}).eos_tokens,
            (std::vector<int32_t>{2, 7}));
}

TEST(ConfigTest, TokensOutsideTheVocabularyAreIgnored) {
  Json config = fixture_config("llama");
  config["bos_token_id"] = 50256;
  EXPECT_FALSE(parse_hf_config(config).bos_token.has_value());
}

TEST(ConfigTest, WhatAFamilyCannotStateIsRefusedByField) {
  ModelSpec spec = parse_hf_config(fixture_config("gpt_neox"));
  spec.norm = NormKind::rms;
  spec.norm_bias = false;
  try {
    hf_config(spec, "float32");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("norm"));
    EXPECT_THAT(error.what(), HasSubstr("fewbit directory"));
  }
  EXPECT_EQ(spec_from_json(spec_to_json(spec)), spec);
}

TEST(ModelSpecTest, ParametersOfPythia70mAreThePublishedOnes) {
  Json config = fixture_config("gpt_neox");
  config["vocab_size"] = 50304;
  config["hidden_size"] = 512;
  config["intermediate_size"] = 2048;
  config["num_hidden_layers"] = 6;
  config["num_attention_heads"] = 8;
  const ModelSpec spec = parse_hf_config(config);
  EXPECT_EQ(spec.non_embedding_params(), 18'915'328u);
  EXPECT_EQ(spec.total_params(), 70'426'624u);
}

}  // namespace
}  // namespace fewbit
