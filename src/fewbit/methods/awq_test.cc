#include "fewbit/methods/awq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/calibrate/quantize_model.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/methods/model_testing.h"
#include "fewbit/methods/registry.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using NamedTensors = std::vector<std::pair<std::string, MemoryTensorSource::Tensor>>;

QuantizedModel quantized(const Checkpoint& checkpoint, const CalibrationSet& calibration,
                         const std::string& recipe) {
  const auto passes = build_passes(Recipe::parse(recipe), methods(), checkpoint.spec);
  return quantize_model(checkpoint, passes, calibration, {.show_progress = false});
}

at::Tensor hidden_of(const Checkpoint& checkpoint, const at::Tensor& tokens,
                     const QuantizedModel& model) {
  at::NoGradGuard no_grad;
  const Decoder decoder(checkpoint.spec, checkpoint.tensors);
  const ParameterMap parameters = dequantized_parameters(decoder, model);
  BlockState state{tokens, {}};
  for (size_t b = 0; b + 1 < decoder.blocks().size(); ++b) {
    state = decoder.run(b, state, parameters);
  }
  return state.value;
}

double mean_square(const at::Tensor& x) { return x.square().mean(at::kDouble).item<double>(); }

const TransformReport& report_of(const QuantizedModel& model, const std::string& where,
                                 const std::string& method) {
  for (const TransformReport& report : model.transforms) {
    if (report.where == where && report.method == method) return report;
  }
  throw std::logic_error("no report of " + method + " on " + where);
}

// --- the golden block ----------------------------------------------------------------------------

// A block of LLaMA's form without rotary positions, whose inputs are the rows of an embedding.
struct GoldenBlock {
  explicit GoldenBlock(const std::filesystem::path& path) : file(SafetensorsFile::open(path)) {
    const TensorView& x = file.tensor("x");
    ModelSpec& spec = checkpoint.spec;
    spec.architecture = "llama";
    spec.hidden_size = spec.embedding_size = x.shape[2];
    spec.vocab_size = x.shape[0] * x.shape[1];
    spec.heads = spec.kv_heads = std::stoul(file.metadata("n_heads"));
    spec.head_size = spec.hidden_size / spec.heads;
    spec.ffn_size = std::stoul(file.metadata("ffn"));
    spec.context = spec.position_rows = x.shape[1];
    spec.norm_epsilon = std::stod(file.metadata("rms_eps"));
    spec.blocks.resize(1);
    spec.positions = Positions::learned;
    spec.tied_head = true;
    NamedTensors tensors = {
        {"embed.weight", {{spec.vocab_size, spec.hidden_size}, to_floats(x)}},
        {"positions.weight",
         {{spec.position_rows, spec.hidden_size},
          std::vector<float>(spec.position_rows * spec.hidden_size, 0.0f)}},
        {"final_norm.weight", {{spec.hidden_size}, std::vector<float>(spec.hidden_size, 1.0f)}}};
    for (const auto& [canonical, stored] : kNames) {
      const TensorView& tensor = file.tensor("fp." + stored);
      tensors.emplace_back("blocks.0." + canonical + ".weight",
                           MemoryTensorSource::Tensor{tensor.shape, to_floats(tensor)});
    }
    checkpoint.tensors = std::make_shared<MemoryTensorSource>(std::move(tensors));
    calibration.tokens =
        at::arange(static_cast<int64_t>(spec.vocab_size), at::kLong)
            .view({static_cast<int64_t>(x.shape[0]), static_cast<int64_t>(x.shape[1])});
    grid = fmt::format("bits={},group_size={},range=min_max,scale_dtype=f32", file.metadata("bits"),
                       file.metadata("group_size"));
  }

  at::Tensor stored(const std::string& name) const {
    const TensorView& view = file.tensor(name);
    const std::vector<float> values = to_floats(view);
    return at::tensor(at::ArrayRef<float>(values))
        .view(std::vector<int64_t>(view.shape.begin(), view.shape.end()));
  }

  // Canonical names without block and ".weight", and those of the file.
  static inline const std::vector<std::pair<std::string, std::string>> kNames = {
      {"attn_norm", "input_layernorm.weight"}, {"attn.q", "self_attn.q_proj.weight"},
      {"attn.k", "self_attn.k_proj.weight"},   {"attn.v", "self_attn.v_proj.weight"},
      {"attn.o", "self_attn.o_proj.weight"},   {"mlp_norm", "post_attention_layernorm.weight"},
      {"mlp.gate", "mlp.gate_proj.weight"},    {"mlp.up", "mlp.up_proj.weight"},
      {"mlp.down", "mlp.down_proj.weight"}};

  SafetensorsFile file;
  Checkpoint checkpoint;
  CalibrationSet calibration;
  std::string grid;
};

void expect_close(const at::Tensor& have, const at::Tensor& want, double relative,
                  const std::string& what) {
  const double worst = ((have - want).abs() / want.abs()).max().item<double>();
  EXPECT_LE(worst, relative) << what;
}

FEWBIT_FIXTURE_TEST(AwqFixture, "awq", ".safetensors") {
  const GoldenBlock block(path());
  const auto parameter = [](const QuantizedModel& model, const std::string& name) {
    return model.changed.at("blocks.0." + name + ".weight");
  };

  // Scales, as they are found in what takes 1 / s.
  const QuantizedModel scaled = quantized(block.checkpoint, block.calibration, "awq:" + block.grid);
  const at::Tensor qkv_scale = block.stored("scale.self_attn.q_proj");
  const at::Tensor gate_scale = block.stored("scale.mlp.gate_proj");
  expect_close(block.stored("fp.input_layernorm.weight") / parameter(scaled, "attn_norm"),
               qkv_scale, 1e-5, "scale of q, k, v");
  expect_close(block.stored("fp.post_attention_layernorm.weight") / parameter(scaled, "mlp_norm"),
               gate_scale, 1e-5, "scale of gate, up");
  const auto row_scale = [&](const std::string& name, const std::string& stored,
                             const at::Tensor& columns) {
    const at::Tensor before = block.stored(stored) * columns;
    return before.norm(2, {1}) / parameter(scaled, name).norm(2, {1});
  };
  expect_close(row_scale("attn.v", "fp.self_attn.v_proj.weight", qkv_scale),
               block.stored("scale.self_attn.o_proj"), 1e-5, "scale of o");
  expect_close(row_scale("mlp.up", "fp.mlp.up_proj.weight", gate_scale),
               block.stored("scale.mlp.down_proj"), 1e-5, "scale of down");

  // Objectives of all candidates where they come from the linear's own output.
  for (const auto& [site, curve] :
       {std::pair{"blocks.0.attn.o.input", "loss_curve.self_attn.o_proj"},
        std::pair{"blocks.0.mlp.down.input", "loss_curve.mlp.down_proj_before_other_scales"}}) {
    const std::vector<float> expected = to_floats(block.file.tensor(curve));
    const std::vector<double>& losses = report_of(scaled, site, "awq").losses;
    ASSERT_EQ(losses.size(), expected.size());
    for (size_t i = 0; i < losses.size(); ++i) {
      EXPECT_NEAR(losses[i], expected[i], 1e-6 * expected[i]) << curve << " " << i;
    }
  }

  // Clipping: the bound is the largest weight of a group afterwards.
  const std::string plain = "awq | clip:zero_points=plain | rtn:" + block.grid;
  const QuantizedModel clipped =
      quantized(block.checkpoint, block.calibration,
                fmt::format("awq:{} | clip:zero_points=plain,{}", block.grid, block.grid));
  int64_t values = 0, equal = 0;
  for (const auto& [canonical, stored] : GoldenBlock::kNames) {
    const std::string name = "clip." + stored.substr(0, stored.rfind('.'));
    if (canonical.ends_with("norm") || canonical == "attn.q" || canonical == "attn.k") continue;
    const at::Tensor bounds = block.stored(name);
    const at::Tensor have =
        parameter(clipped, canonical).view({bounds.size(0), bounds.size(1), -1}).abs().amax(2);
    const at::Tensor same = (have - bounds).abs() <= 1e-5 * bounds;
    values += same.numel();
    equal += same.sum().item<int64_t>();
    // The others are on another step of the grid.
    const at::Tensor unclipped =
        parameter(scaled, canonical).view({bounds.size(0), bounds.size(1), -1}).abs().amax(2);
    const double n_grid = std::stod(block.file.metadata("clip_n_grid"));
    const at::Tensor steps = (1 - have / unclipped) * n_grid;
    EXPECT_LE((steps - steps.round()).abs().max().item<double>(), 1e-3) << name;
  }
  EXPECT_GE(static_cast<double>(equal), 0.95 * static_cast<double>(values));
  RecordProperty("equal_clips", fmt::format("{} of {}", equal, values));

  // The whole: outputs of the quantized block.
  const at::Tensor exact = block.stored("y_fp"), golden = block.stored("y_awq");
  const at::Tensor reference = hidden_of(block.checkpoint, block.calibration.tokens,
                                         quantized(block.checkpoint, block.calibration, plain));
  const double golden_error = std::stod(block.file.metadata("mse_awq"));
  EXPECT_LE(mean_square(reference - exact), 1.05 * golden_error);
  EXPECT_LE((reference - golden).norm().item<double>(),
            0.25 * (golden - exact).norm().item<double>());
  // Trying both zero points can only help.
  const at::Tensor both =
      hidden_of(block.checkpoint, block.calibration.tokens,
                quantized(block.checkpoint, block.calibration, "awq | clip | rtn:" + block.grid));
  EXPECT_LE(mean_square(both - exact), golden_error);
  RecordProperty("mse_of_golden",
                 fmt::format("{} plain, {} both", mean_square(reference - exact) / golden_error,
                             mean_square(both - exact) / golden_error));
}

// --- properties ----------------------------------------------------------------------------------

using testing::LoudModel;

TEST(AwqTest, LowersItsObjectivesAndTheErrorOfTheModel) {
  const LoudModel model;
  for (const char* options : {"", "duo_scaling=true", "objective=linears"}) {
    const std::string recipe =
        fmt::format("awq{}{} | rtn:bits=3,group_size=32", *options ? ":" : "", options);
    const QuantizedModel result = quantized(model.checkpoint, model.calibration, recipe);
    EXPECT_EQ(result.transforms.size(), 8u);
    for (const TransformReport& report : result.transforms) {
      EXPECT_LE(*report.objective_after, *report.objective_before) << report.where;
    }
    EXPECT_LT(model.error(recipe), model.error("rtn:bits=3,group_size=32")) << recipe;
  }
}

TEST(AwqTest, ScalesExpertsBehindOneNormTogether) {
  const LoudModel model(LoudModel::Kind::experts);
  const QuantizedModel result =
      quantized(model.checkpoint, model.calibration, "awq | rtn:bits=3,group_size=32");
  EXPECT_EQ(result.transforms.size(), 2u * (2 + 1 + 4));
  EXPECT_TRUE(result.changed.contains("blocks.0.mlp.router.weight"));
  EXPECT_LT(model.error("awq | rtn:bits=3,group_size=32"), model.error("rtn:bits=3,group_size=32"));
}

TEST(AwqTest, AloneItLeavesTheFunctionOfTheModel) {
  const LoudModel model;
  EXPECT_LT(model.error("awq:bits=3,group_size=32"), 1e-9);
}

TEST(AwqTest, CombinesWithClippingAndGptqInOneWalk) {
  const LoudModel model;
  const double rtn = model.error("rtn:bits=3,group_size=32");
  const double clipped = model.error("awq | clip | rtn:bits=3,group_size=32");
  const double gptq = model.error("awq | clip | gptq:bits=3,group_size=32");
  EXPECT_LT(clipped, rtn);
  EXPECT_LT(gptq, clipped);
}

TEST(AwqTest, LooksAheadToTheGridOfTheNextPassThatQuantizes) {
  const LoudModel model;
  const at::Tensor given =
      model.hidden("awq:bits=2,group_size=16 | rtn:bits=2,group_size=16,symmetry=asymmetric");
  EXPECT_TRUE(given.equal(model.hidden("awq | rtn:bits=2,group_size=16")));
  EXPECT_FALSE(given.equal(model.hidden("awq:bits=8 | rtn:bits=2,group_size=16")));
  // A wrong option is reported where it stands.
  EXPECT_THAT([&] { model.hidden("awq | rtn:bits=12"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("pass 2 (rtn)")));
  EXPECT_THAT([&] { model.hidden("awq:bits=12 | rtn:bits=4"); },
              ::testing::ThrowsMessage<Error>(HasSubstr("pass 1 (awq)")));
}

TEST(AwqTest, RefusesLayersThatHaveTheirCodesAlready) {
  const LoudModel model;
  for (const char* recipe : {"rtn | awq", "rtn | clip", "rtn | smoothquant"}) {
    EXPECT_THAT([&] { model.hidden(recipe); },
                ::testing::ThrowsMessage<Error>(HasSubstr("blocks.0")))
        << recipe;
  }
}

TEST(AwqTest, TellsWhatCannotBeScaled) {
  LoudModel model;
  model.checkpoint.spec.gated_mlp = false;
  model.checkpoint.spec.activation = Activation::gelu;
  const QuantizedModel result =
      quantized(model.checkpoint, model.calibration, "awq:bits=3,group_size=32");
  EXPECT_THAT(report_of(result, "blocks.0.mlp.down.input", "awq").detail,
              HasSubstr("not scaled: it comes through a function that no scale passes"));
  EXPECT_THAT(
      [&] {
        build_passes(Recipe::parse("awq:unfoldable=refuse"), methods(), model.checkpoint.spec);
      },
      ::testing::ThrowsMessage<Error>(HasSubstr("blocks.0.mlp.down.input")));
  EXPECT_THAT(
      [&] {
        build_passes(Recipe::parse("awq:layers=blocks.*.mlp.down"), methods(),
                     model.checkpoint.spec);
      },
      ::testing::ThrowsMessage<Error>(HasSubstr("nothing that 'blocks.*.mlp.down' selects")));
}

TEST(AwqTest, ScalesDoNotDependOnTheUnitOfTheActivations) {
  std::vector<double> activations(32);
  std::vector<float> normal(32);
  RandomStream(2, "activations").fill_normal(normal, 0, 1);
  for (size_t c = 0; c < 32; ++c) activations[c] = std::exp(normal[c]);
  const auto one = awq_candidates(activations, {}, 20);
  for (double& a : activations) a *= 1000;
  const auto other = awq_candidates(activations, {}, 20);
  ASSERT_EQ(one.size(), 20u);
  for (size_t i = 0; i < one.size(); ++i) {
    for (size_t c = 0; c < 32; ++c) EXPECT_NEAR(one[i][c], other[i][c], 1e-5 * one[i][c]);
  }
  EXPECT_EQ(one.front(), std::vector<float>(32, 1.0f));
}

TEST(AwqTest, ZeroActivationsAndWeightsGiveUsableScales) {
  const std::vector<double> zeros(8, 0.0);
  for (const auto& importance : {std::vector<double>{}, zeros}) {
    for (const auto& scale : awq_candidates(zeros, importance, 20)) {
      for (const float s : scale) EXPECT_TRUE(std::isfinite(s) && s > 0);
    }
  }
}

TEST(CandidateSearchTest, FindsTheFirstSmallestAndSparesTheRest) {
  RandomStream random(1, "losses");
  for (int trial = 0; trial < 50; ++trial) {
    // Few levels, so that equal sums occur.
    std::vector<std::vector<double>> terms(20, std::vector<double>(6));
    for (auto& candidate : terms) {
      for (double& term : candidate) term = static_cast<double>(random.below(3));
    }
    size_t expected = 0, calls = 0;
    const auto total = [&](size_t c) {
      return std::accumulate(terms[c].begin(), terms[c].end(), 0.0);
    };
    for (size_t c = 1; c < terms.size(); ++c) {
      if (total(c) < total(expected)) expected = c;
    }
    const CandidateSearch found = search_candidates(20, 6, [&](size_t c, size_t b) {
      ++calls;
      return terms[c][b];
    });
    EXPECT_EQ(found.best, expected);
    EXPECT_EQ(found.losses[0], total(0));
    EXPECT_EQ(found.losses[expected], total(expected));
    EXPECT_LT(calls, 20u * 6u);
  }
}

// --- files ---------------------------------------------------------------------------------------

FEWBIT_FIXTURE_TEST_FOLDERS(TransformedModelsFixture, "models") {
  if (path().filename() == "bitnet") GTEST_SKIP() << "this model is refused";
  at::NoGradGuard no_grad;
  const Checkpoint checkpoint = open_checkpoint(path());
  RandomStream random(3, "tokens");
  std::vector<int64_t> ids(4 * 16);
  for (int64_t& id : ids) id = static_cast<int64_t>(random.below(checkpoint.spec.vocab_size));
  CalibrationSet calibration;
  calibration.tokens = at::tensor(ids, at::kLong).view({4, 16});
  const QuantizedModel model =
      quantized(checkpoint, calibration, "smoothquant | awq | clip | rtn:bits=4,group_size=16");
  const testing::TemporaryDirectory directory;
  write_quantized_model(directory / "model", false, checkpoint, model, to_json(model));

  const Checkpoint reopened = open_checkpoint(directory / "model");
  const Decoder before(checkpoint.spec, checkpoint.tensors);
  const Decoder after(reopened.spec, reopened.tensors);
  const ParameterMap expected = dequantized_parameters(before, model);
  const ParameterMap read = after.load_all_parameters();
  ASSERT_EQ(read.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(read.at(name).equal(tensor)) << name;
  const auto logits = [&](const Decoder& decoder, const ParameterMap& parameters) {
    return decoder.logits(decoder.hidden_states(calibration.tokens, parameters), parameters);
  };
  EXPECT_TRUE(logits(after, read).equal(logits(before, expected)));
}

}  // namespace
}  // namespace fewbit
