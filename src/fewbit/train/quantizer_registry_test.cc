#include "fewbit/train/quantizer_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_testing.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using testing::leaf;
using testing::same_values;

using Options = std::map<std::string, std::string>;

bool has_option(const Quantizer& quantizer, std::string_view name) {
  for (const OptionSpec& option : quantizer.options) {
    if (option.name == name) return true;
  }
  return false;
}

// Every quantizer, width and sharing of scales that can be packed.
void for_each_setting(const std::function<void(const Quantizer&, const Options&)>& body) {
  for (const Quantizer& quantizer : quantizers()) {
    if (quantizer.name == "pb-llm") continue;
    for (const std::string& bits : quantizer.bits) {
      std::vector<Options> sharings = {{{"group_size", "16"}}, {{"group_size", "0"}}};
      if (has_option(quantizer, "granularity")) {
        sharings.push_back({{"granularity", "matrix"}});
        sharings.push_back({{"granularity", "row"}});
        sharings.push_back({{"granularity", "matrix"}, {"shards", "3"}});
      }
      for (Options options : sharings) {
        options["bits"] = bits;
        for (const char* dtype : {"f16", "bf16", "f32"}) {
          options["scale_dtype"] = dtype;
          body(quantizer, options);
        }
      }
    }
  }
}

class QuantizerRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(21);
    weight_ = at::randn({6, 48}) * at::rand({6, 1}) * 0.1;
    weight_.select(0, 2).abs_();  // A row without a sign change.
  }
  at::Tensor weight_;
};

TEST_F(QuantizerRegistryTest, BakedMatricesDecodeToTheFakeQuantizedWeights) {
  for_each_setting([&](const Quantizer& entry, const Options& options) {
    const auto quantizer = make_fake_quant(entry.name, options, weight_);
    SCOPED_TRACE(quantizer->describe());
    // Away from the start, as training leaves it.
    for (const auto& [name, tensor] : quantizer->parameters()) {
      testing::set_values(tensor, tensor.detach() * 0.83);
    }
    const at::Tensor weight = weight_ + at::randn_like(weight_) * 0.01;
    const at::Tensor out = quantizer->forward(weight);
    const QuantizedMatrix baked = quantizer->bake(weight);
    EXPECT_TRUE(same_values(out, testing::tensor_of(baked.dequantize())));
    EXPECT_TRUE(same_values(out, quantizer->quantize(weight).dequantize()));
    // And after a round trip through its stored form.
    const auto stored = baked.to_tensors("w");
    EXPECT_EQ(QuantizedMatrix::from_tensors(stored, "w"), baked);
  });
}

TEST_F(QuantizerRegistryTest, FrozenCodesStartWhereTheQuantizerIsAndTrainTheirScales) {
  for_each_setting([&](const Quantizer& entry, Options options) {
    const auto trained = make_fake_quant(entry.name, options, weight_);
    options["frozen_codes"] = "true";
    const auto frozen = make_fake_quant(entry.name, options, weight_);
    EXPECT_FALSE(frozen->trains_weight());
    EXPECT_TRUE(same_values(frozen->forward(weight_), trained->forward(weight_)));
    // Not ones: the codes of a balanced row would cancel.
    frozen->forward(weight_).backward(at::linspace(-1, 2, weight_.numel()).view_as(weight_));
    EXPECT_GT(testing::parameter(*frozen, "scale").grad().abs().max().item<double>(), 0);
    EXPECT_EQ(frozen->bake(weight_), trained->bake(weight_));
  });
}

TEST_F(QuantizerRegistryTest, GradientsReachWeightsAndParameters) {
  for (const Quantizer& entry : quantizers()) {
    SCOPED_TRACE(entry.name);
    Options options;
    if (has_option(entry, "group_size")) options["group_size"] = "16";
    const at::Tensor weight = leaf(weight_);
    const auto quantizer = make_fake_quant(entry.name, options, weight);
    quantizer->forward(weight).backward(at::randn_like(weight_));
    EXPECT_GT(weight.grad().abs().max().item<double>(), 0);
    std::set<std::string> names;
    for (const auto& [name, tensor] : quantizer->parameters()) {
      EXPECT_TRUE(names.insert(name).second);
      EXPECT_TRUE(tensor.is_leaf() && tensor.requires_grad());
      EXPECT_TRUE(tensor.grad().defined()) << name;
      EXPECT_TRUE(tensor.grad().isfinite().all().item<bool>()) << name;
    }
  }
}

TEST_F(QuantizerRegistryTest, SizesCountScalesAndZeroPoints) {
  const auto bits = [&](const char* name, Options options) {
    const at::Tensor weight = at::randn({64, 512});
    return make_fake_quant(name, options, weight)->bake(weight).bits_per_weight();
  };
  constexpr double kLevels = 16 * 16 / (64.0 * 512);  // A codebook of at most 16 f16 numbers.
  EXPECT_NEAR(bits("paretoq", {{"bits", "1"}}), 1 + 16.0 / 512, kLevels);
  EXPECT_NEAR(bits("paretoq", {{"bits", "2"}}), 2 + 16.0 / 512, kLevels);
  EXPECT_NEAR(bits("paretoq", {{"bits", "3"}}), 3 + 16.0 / 512, 1e-9);
  EXPECT_NEAR(bits("efficientqat", {{"bits", "2"}, {"group_size", "64"}}), 2 + 18.0 / 64, 1e-9);
  EXPECT_NEAR(bits("bitnet-b1", {}), 1, kLevels);
}

TEST_F(QuantizerRegistryTest, ErrorsNameTheKeyAndWhatIsAllowed) {
  const auto message = [&](const char* name, const Options& options) {
    try {
      make_fake_quant(name, options, weight_);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message("nothing", {}), HasSubstr("paretoq"));
  EXPECT_THAT(message("paretoq", {{"bits", "5"}}), HasSubstr("1.58"));
  EXPECT_THAT(message("paretoq", {{"size", "5"}}), HasSubstr("size"));
  EXPECT_THAT(message("lsq", {{"group_size", "7"}}), HasSubstr("7"));
  EXPECT_THAT(message("lsq", {{"shards", "2"}}), HasSubstr("granularity"));
  EXPECT_THAT(message("bitnet", {{"shards", "4"}}), HasSubstr("4 shards"));
  EXPECT_THROW(make_fake_quant("lsq", {}, at::zeros({0, 4})), Error);
}

TEST_F(QuantizerRegistryTest, ActivationQuantizersWorkFromTheirDefaults) {
  for (const ActivationQuantizer& entry : activation_quantizers()) {
    SCOPED_TRACE(entry.name);
    const auto quantizer = make_activation_fake_quant(entry.name, {});
    const at::Tensor x = leaf(at::randn({4, 3, 32}));
    quantizer->start_from(x);
    const at::Tensor out = quantizer->forward(x);
    EXPECT_EQ(out.sizes(), x.sizes());
    out.sum().backward();
    EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
    EXPECT_FALSE(quantizer->describe().empty());
  }
  EXPECT_THROW(make_activation_fake_quant("absmax", {{"bits", "9"}}), Error);
}

}  // namespace
}  // namespace fewbit
