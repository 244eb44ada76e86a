#include "fewbit/network/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "fewbit/base/error.h"
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

}  // namespace
}  // namespace fewbit
