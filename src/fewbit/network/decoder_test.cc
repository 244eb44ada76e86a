#include "fewbit/network/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/model/checkpoint.h"
#include "fewbit/network/torch_language_model.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

struct Expected {
  BasicMatrix<int32_t> tokens;  // [1, length]
  Matrix logits;                // [length, vocabulary]
};

Expected read_expected(const SafetensorsFile& file, const std::string& logits_name) {
  const std::vector<int64_t> ids = to_integers(file.tensor("input_ids"));
  const TensorView& logits = file.tensor(logits_name);
  return {BasicMatrix<int32_t>(1, ids.size(), std::vector<int32_t>(ids.begin(), ids.end())),
          Matrix(logits.shape.at(0), logits.shape.at(1), to_floats(logits))};
}

Matrix all_logits(LanguageModel& model, MatrixView<const int32_t> tokens) {
  const auto result = model.forward(tokens);
  Matrix logits(result->rows(), model.spec().vocab_size);
  // Two panels, so that a panel's offset matters.
  const size_t half = logits.rows() / 2;
  result->logits(0, logits.view().rows_from(0, half));
  result->logits(half, logits.view().rows_from(half, logits.rows() - half));
  return logits;
}

std::shared_ptr<const Decoder> open_decoder(const std::filesystem::path& path) {
  const Checkpoint checkpoint = open_checkpoint(path);
  return std::make_shared<Decoder>(checkpoint.spec, checkpoint.tensors);
}

FEWBIT_FIXTURE_TEST_FOLDERS(ModelsFixture, "models") {
  if (path().filename() == "bitnet") {
    EXPECT_THROW(open_checkpoint(path()), Error);
    return;
  }
  const SafetensorsFile file = SafetensorsFile::open(path() / "expected.safetensors");
  const Expected expected = read_expected(file, "logits");
  for (const auto residency :
       {TorchLanguageModel::Residency::resident, TorchLanguageModel::Residency::streamed}) {
    TorchLanguageModel model(open_decoder(path()), residency);
    const Matrix logits = all_logits(model, expected.tokens.view());
    ASSERT_EQ(logits.rows(), expected.logits.rows());
    ASSERT_EQ(logits.cols(), expected.logits.cols());
    double worst = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double want = expected.logits.values()[i];
      worst = std::max(worst, std::abs(logits.values()[i] - want) / (1 + std::abs(want)));
    }
    EXPECT_LE(worst, 5e-5);
    RecordProperty("worst", std::to_string(worst));

    // The stated loss: position t predicts token t + 1.
    double sum = 0;
    for (size_t t = 0; t + 1 < logits.rows(); ++t) {
      double total = 0;
      for (const float value : logits.row(t)) total += std::exp(static_cast<double>(value));
      sum += std::log(total) - logits(t, static_cast<size_t>(expected.tokens(0, t + 1)));
    }
    const double loss = sum / static_cast<double>(logits.rows() - 1);
    EXPECT_NEAR(loss, std::stod(file.metadata("mean_nll")), 1e-4 * (1 + loss));
  }
}

FEWBIT_FIXTURE_TEST(GgufModelFixture, "gguf", ".gguf") {
  std::filesystem::path expected_path = path();
  expected_path.replace_extension(".expected.safetensors");
  const SafetensorsFile file = SafetensorsFile::open(expected_path);
  const Expected expected = read_expected(file, "logits_float_activations");
  TorchLanguageModel model(open_decoder(path()));
  const Matrix logits = all_logits(model, expected.tokens.view());
  ASSERT_EQ(logits.size(), expected.logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    ASSERT_NEAR(logits.values()[i], expected.logits.values()[i], 2e-4);
  }
}

// The published model of 260,000 parameters, where someone has put it: models/stories260K.bin of
// this repository, or the file that FEWBIT_STORIES260K names.
TEST(Stories260kTest, GreedyTextAndFirstLogitsAreThePublishedOnes) {
  const char* named = std::getenv("FEWBIT_STORIES260K");
  const std::filesystem::path path =
      named ? named : testing::test_data_root() / "../../models/stories260K.bin";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path.string();
  const Checkpoint checkpoint = open_checkpoint(path);
  EXPECT_EQ(checkpoint.kind, CheckpointKind::llama2c);
  const std::vector<int32_t> published = {
      1,   403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317,
      426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265, 282, 295,
      433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426};
  TorchLanguageModel model(std::make_shared<Decoder>(checkpoint.spec, checkpoint.tensors));
  const Matrix logits = all_logits(model, {published.data(), 1, published.size()});
  EXPECT_NEAR(logits(0, 0), -6.2229, 1e-3);
  EXPECT_NEAR(logits(0, 1), 8.4043, 1e-3);
  EXPECT_NEAR(logits(0, 2), -6.2237, 1e-3);
  EXPECT_NEAR(logits(0, 403), 17.0235, 1e-3);
  for (size_t t = 0; t + 1 < published.size(); ++t) {
    const auto row = logits.row(t);
    EXPECT_EQ(std::max_element(row.begin(), row.end()) - row.begin(), published[t + 1]) << t;
  }
}

BasicMatrix<int32_t> some_tokens(size_t batch, size_t length, size_t vocabulary) {
  BasicMatrix<int32_t> tokens(batch, length);
  RandomStream random(11, "tokens");
  for (int32_t& token : tokens.values()) token = static_cast<int32_t>(random.below(vocabulary));
  return tokens;
}

at::Tensor tensor_of(const BasicMatrix<int32_t>& tokens) {
  return at::from_blob(const_cast<int32_t*>(tokens.data()),
                       {static_cast<int64_t>(tokens.rows()), static_cast<int64_t>(tokens.cols())},
                       at::kInt)
      .to(at::kLong);
}

class FamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path folder() const { return testing::test_data_root() / "models" / GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3", "mixtral",
                                           "gemma2", "gemma3", "gpt_neox", "opt", "gpt2"),
                         [](const auto& family) { return family.param; });

TEST_P(FamilyTest, SequencesOfABatchDoNotSeeEachOtherNorTheFuture) {
  TorchLanguageModel model(open_decoder(folder()));
  const size_t length = 17;
  const auto tokens = some_tokens(3, length, model.spec().vocab_size);
  const Matrix together = all_logits(model, tokens.view());
  for (size_t b = 0; b < tokens.rows(); ++b) {
    for (const size_t prefix : {size_t{9}, length}) {
      const Matrix alone = all_logits(model, {tokens.row(b).data(), 1, prefix});
      for (size_t t = 0; t < prefix; ++t) {
        for (size_t v = 0; v < alone.cols(); ++v) {
          ASSERT_NEAR(alone(t, v), together(b * length + t, v), 2e-5 * (1 + std::abs(alone(t, v))));
        }
      }
    }
  }
}

TEST_P(FamilyTest, EverySiteOfABlockIsPassedInOrderWithTheStatedWidth) {
  const auto decoder = open_decoder(folder());
  const at::NoGradGuard no_grad;
  const auto tokens = some_tokens(2, 8, decoder->spec().vocab_size);
  BlockState state{tensor_of(tokens), {}};
  for (size_t b = 0; b < decoder->blocks().size(); ++b) {
    const BlockInfo& info = decoder->blocks()[b];
    std::vector<std::string> passed;
    std::map<std::string, size_t> widths;
    for (const Step& step : info.steps) widths[step.site] = step.in_features;
    BlockHooks hooks;
    hooks.at_site = [&](const std::string& site, const at::Tensor& value) {
      passed.push_back(site);
      if (widths.contains(site)) {
        EXPECT_EQ(static_cast<size_t>(value.size(-1)), widths[site]);
      }
      return value;
    };
    state = decoder->run(b, state, decoder->load_parameters(b), hooks);
    // An expert that no token is routed to is left out.
    std::vector<std::string> expected = info.sites;
    std::erase_if(expected, [&](const std::string& site) {
      return site.find("experts") != std::string::npos &&
             std::find(passed.begin(), passed.end(), site) == passed.end();
    });
    EXPECT_EQ(passed, expected);
  }
  EXPECT_EQ(state.value.sizes(),
            (at::IntArrayRef{2, 8, static_cast<int64_t>(decoder->spec().vocab_size)}));
}

TEST_P(FamilyTest, ARunEndsAtTheSiteItIsToldTo) {
  const auto decoder = open_decoder(folder());
  const at::NoGradGuard no_grad;
  const ParameterMap parameters = decoder->load_all_parameters();
  const BlockState hidden =
      decoder->run(0, {tensor_of(some_tokens(1, 8, decoder->spec().vocab_size)), {}}, parameters);
  const Step& step = decoder->blocks()[1].steps[1];
  std::vector<std::string> passed;
  BlockHooks hooks;
  hooks.at_site = [&](const std::string& site, const at::Tensor& value) {
    passed.push_back(site);
    return value;
  };
  hooks.stop_at = step.site;
  EXPECT_FALSE(decoder->run(1, hidden, parameters, hooks).value.defined());
  EXPECT_EQ(passed.back(), step.site);
}

TEST_P(FamilyTest, WhatAHookReturnsIsUsed) {
  TorchLanguageModel model(open_decoder(folder()));
  const auto tokens = some_tokens(1, 8, model.spec().vocab_size);
  const Matrix before = all_logits(model, tokens.view());
  BlockHooks hooks;
  hooks.at_site = [](const std::string& site, const at::Tensor& value) {
    return site == "blocks.0.attn.o.input" ? value * 1.5 : value;
  };
  model.set_hooks(hooks);
  EXPECT_NE(all_logits(model, tokens.view()), before);
}

// Directional derivatives of the loss against differences, over every parameter at once.
TEST_P(FamilyTest, GradientsOfAllParametersAreThoseOfTheLoss) {
  const Checkpoint checkpoint = open_checkpoint(folder());
  ModelSpec spec = checkpoint.spec;
  // The choice of experts is no differentiable one: leave none out.
  spec.experts_per_token = spec.experts;
  const auto decoder = std::make_shared<Decoder>(spec, checkpoint.tensors);
  const auto tokens = some_tokens(2, 10, decoder->spec().vocab_size);
  const at::Tensor ids = tensor_of(tokens);
  const at::Tensor inputs = ids.narrow(1, 0, 9), targets = ids.narrow(1, 1, 9).flatten();
  ParameterMap parameters = decoder->load_all_parameters();
  const auto loss = [&](const ParameterMap& at) {
    return decoder->loss_sum(decoder->hidden_states(inputs, at).flatten(0, 1), targets, at);
  };
  for (auto& [name, value] : parameters) value.requires_grad_(true);
  loss(parameters).backward();
  at::manual_seed(5);
  const at::NoGradGuard no_grad;
  double predicted = 0, measured = 0;
  // Small enough for the curvature, large enough for float32.
  constexpr double kStep = 2e-4;
  ParameterMap ahead, behind;
  for (const auto& [name, value] : parameters) {
    ASSERT_TRUE(value.grad().defined()) << name;
    // Along the gradient itself, scaled per tensor, so that every tensor counts.
    const at::Tensor gradient = value.grad();
    const at::Tensor direction = gradient / (gradient.norm() + 1e-8) * value.norm();
    predicted += (gradient * direction).sum().item<double>();
    ahead.emplace(name, value + direction * kStep);
    behind.emplace(name, value - direction * kStep);
  }
  measured = (loss(ahead) - loss(behind)).item<double>() / (2 * kStep);
  EXPECT_NEAR(measured, predicted, 0.02 * std::abs(predicted));
}

TEST(DecoderTest, TokensOutsideTheVocabularyAreRefused) {
  TorchLanguageModel model(open_decoder(testing::test_data_root() / "models" / "llama"));
  for (const int32_t token : {-1, 128}) {
    EXPECT_THROW(model.forward({&token, 1, 1}), Error);
  }
}

TEST(DecoderTest, SequencesBeyondTheLearnedPositionsAreRefused) {
  for (const char* name : {"opt", "gpt2"}) {
    TorchLanguageModel model(open_decoder(testing::test_data_root() / "models" / name));
    const auto fits = some_tokens(1, 64, 128), too_long = some_tokens(1, 65, 128);
    EXPECT_NO_THROW(model.forward(fits.view()));
    EXPECT_THROW(model.forward(too_long.view()), Error);
  }
}

TEST(DecoderTest, AParameterThatIsNotGivenIsNamed) {
  const auto decoder = open_decoder(testing::test_data_root() / "models" / "llama");
  ParameterMap parameters = decoder->load_all_parameters();
  parameters.erase("blocks.1.mlp.up.weight");
  try {
    decoder->hidden_states(at::zeros({1, 4}, at::kLong), parameters);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("blocks.1.mlp.up.weight"), std::string::npos);
  }
}

// A block of OPT-350M written out: norms behind the additions, projected embeddings.
TEST(DecoderTest, NormsBehindTheAdditionAreAppliedThere) {
  ModelSpec spec = open_checkpoint(testing::test_data_root() / "models" / "opt").spec;
  spec.norm_first = spec.final_norm = false;
  spec.embedding_size = 32;
  spec.blocks.resize(1);
  const Decoder decoder(spec, random_tensors(spec, 3, 0.2));
  const at::NoGradGuard no_grad;
  const ParameterMap p = decoder.load_all_parameters();
  const at::Tensor ids = tensor_of(some_tokens(1, 6, spec.vocab_size));
  const auto w = [&](const char* name) { return p.at(name); };
  const auto linear = [&](const std::string& layer, const at::Tensor& x) {
    return at::linear(x, p.at(layer + ".weight"), p.at(layer + ".bias"));
  };
  const auto norm = [&](const std::string& layer, const at::Tensor& x) {
    return at::layer_norm(x, {64}, p.at(layer + ".weight"), p.at(layer + ".bias"), 1e-5);
  };
  at::Tensor x = at::linear(at::embedding(w("embed.weight"), ids), w("embed_project_in.weight"));
  x = x + w("positions.weight").narrow(0, 2, 6);
  const auto heads = [](const at::Tensor& y) { return y.view({1, 6, 4, 16}).transpose(1, 2); };
  const at::Tensor q = heads(linear("blocks.0.attn.q", x)), k = heads(linear("blocks.0.attn.k", x)),
                   v = heads(linear("blocks.0.attn.v", x));
  const at::Tensor mask = at::full({6, 6}, -INFINITY).triu(1);
  const at::Tensor mixed = at::softmax(q.matmul(k.transpose(2, 3)) / 4 + mask, -1)
                               .matmul(v)
                               .transpose(1, 2)
                               .reshape({1, 6, 64});
  x = norm("blocks.0.attn_norm", x + linear("blocks.0.attn.o", mixed));
  x = norm("blocks.0.mlp_norm",
           x + linear("blocks.0.mlp.down", at::relu(linear("blocks.0.mlp.up", x))));
  const at::Tensor expected =
      at::linear(at::linear(x, w("embed_project_out.weight")), w("embed.weight"));
  const at::Tensor got = decoder.logits(decoder.hidden_states(ids, p), p);
  EXPECT_TRUE(at::allclose(got, expected, 1e-5, 1e-5));
}

}  // namespace
}  // namespace fewbit
