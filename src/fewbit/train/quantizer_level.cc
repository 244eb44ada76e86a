#include "fewbit/train/quantizer_level.h"

#include <torch/torch.h>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_kernels.h"

namespace fewbit {
namespace {

using kernels::GroupStatistic;

// [groups, 1] in the type of `groups`.
at::Tensor statistic_of(const at::Tensor& groups, GroupStatistic statistic) {
  const at::Tensor w = groups.detach().contiguous();
  if (!w.device().is_cpu()) {
    const at::Tensor wide = w.to(at::kDouble);
    switch (statistic) {
      case GroupStatistic::sum:
        return wide.sum(1, true);
      case GroupStatistic::sum_of_magnitudes:
        return wide.abs().sum(1, true);
      case GroupStatistic::largest_magnitude:
        return wide.abs().amax(1, true);
    }
  }
  at::Tensor out = at::empty({w.size(0), 1}, at::kDouble);
  const kernels::GroupShape shape{w.size(0), w.size(1)};
  if (w.scalar_type() == at::kDouble) {
    kernels::group_statistic(shape, w.data_ptr<double>(), statistic, out.data_ptr<double>());
  } else {
    kernels::group_statistic(shape, w.data_ptr<float>(), statistic, out.data_ptr<double>());
  }
  return out;
}

constexpr int kSearchSteps = 80;
constexpr double kSearchStep = 0.01;

const char* word_of(LevelQuantizer::Scale scale) {
  switch (scale) {
    case LevelQuantizer::Scale::learned:
      return "learned";
    case LevelQuantizer::Scale::learned_log:
      return "log-learned";
    case LevelQuantizer::Scale::fixed:
      return "fixed";
    case LevelQuantizer::Scale::recomputed:
      return "recomputed";
  }
  return "";
}

class LevelFakeQuant : public FakeQuant {
 public:
  LevelFakeQuant(const LevelQuantizer& quantizer, const at::Tensor& weight)
      : quantizer_(quantizer) {
    if (quantizer_.scale == LevelQuantizer::Scale::recomputed) return;
    const at::Tensor groups = quantizer_.groups.split(weight.detach());
    at::Tensor start = scale_statistic(groups, quantizer_.statistic).clamp_min(kSmallestScale);
    if (quantizer_.least_squares) start = least_squares_scale(groups, start, quantizer_.rule);
    switch (quantizer_.scale) {
      case LevelQuantizer::Scale::learned:
        scale_ = make_parameter(start);
        break;
      case LevelQuantizer::Scale::learned_log:
        scale_ = make_parameter(start.log());
        break;
      default:
        scale_ = start.clone();
    }
  }

  at::Tensor forward(const at::Tensor& weight) const override {
    const at::Tensor groups = quantizer_.groups.split(weight);
    return quantizer_.groups.join(
        level_fake_quant(groups, scale_of(groups), centre_of(groups), quantizer_.rule));
  }

  std::vector<QuantizerTensor> parameters() const override {
    if (quantizer_.scale == LevelQuantizer::Scale::learned) return {{"scale", scale_}};
    if (quantizer_.scale == LevelQuantizer::Scale::learned_log) return {{"log_scale", scale_}};
    return {};
  }
  std::vector<QuantizerTensor> buffers() const override {
    if (quantizer_.scale == LevelQuantizer::Scale::fixed) return {{"scale", scale_}};
    return {};
  }

  QuantizedTensor quantize(const at::Tensor& weight) const override {
    const LevelGrid& grid = quantizer_.rule.grid;
    const at::Tensor groups = quantizer_.groups.split(weight.detach());
    const at::Tensor scale = scale_of(groups).detach();
    const at::Tensor codes = level_codes(groups, scale, centre_of(groups), quantizer_.rule);
    require(!grid.zero_stays_zero || !weight.eq(0).any().item<bool>(),
            "{}: weights of exactly 0 have no binary code; use compatible=false", quantizer_.name);
    QuantizedTensor result;
    result.groups = quantizer_.groups;
    result.scale_dtype = quantizer_.rule.scale_dtype;
    result.bits = grid.bits;
    result.first_level = grid.first_level;
    result.level_step = grid.level_step;
    result.codes = quantizer_.groups.join(codes);
    result.scales = effective_scale(scale, quantizer_.rule).stored;
    return result;
  }

  std::string describe() const override {
    return fmt::format("{}: {}, {} {} scale per {}", quantizer_.name, quantizer_.rule.grid.name,
                       word_of(quantizer_.scale), word_of_float_dtype(quantizer_.rule.scale_dtype),
                       quantizer_.groups.describe());
  }

 private:
  at::Tensor scale_of(const at::Tensor& groups) const {
    switch (quantizer_.scale) {
      case LevelQuantizer::Scale::recomputed:
        return scale_statistic(groups, quantizer_.statistic);
      case LevelQuantizer::Scale::learned_log:
        return scale_.exp();
      default:
        return scale_;
    }
  }
  at::Tensor centre_of(const at::Tensor& groups) const {
    return quantizer_.subtract_mean ? group_means(groups) : at::Tensor();
  }

  LevelQuantizer quantizer_;
  at::Tensor scale_;
};

}  // namespace

at::Tensor scale_statistic(const at::Tensor& groups, const ScaleStatistic& statistic) {
  const bool mean = statistic.kind == ScaleStatistic::Kind::mean_magnitude;
  at::Tensor value = statistic_of(
      groups, mean ? GroupStatistic::sum_of_magnitudes : GroupStatistic::largest_magnitude);
  if (mean) value = value / static_cast<double>(groups.size(1));
  return (value * statistic.factor + statistic.added).to(groups.scalar_type());
}

at::Tensor group_means(const at::Tensor& groups) {
  return (statistic_of(groups, GroupStatistic::sum) / static_cast<double>(groups.size(1)))
      .to(groups.scalar_type());
}

at::Tensor least_squares_scale(const at::Tensor& groups, const at::Tensor& start,
                               const LevelRule& rule) {
  const at::NoGradGuard no_gradient;
  at::Tensor best_error, best = start;
  for (int step = 0; step < kSearchSteps; ++step) {
    const at::Tensor scale = start * (1 - step * kSearchStep);
    const at::Tensor error =
        (level_fake_quant(groups, scale, at::Tensor(), rule) - groups).square().sum(1, true);
    if (step == 0) {
      best_error = error;
      continue;
    }
    const at::Tensor better = error < best_error;
    best = at::where(better, scale, best);
    best_error = at::where(better, error, best_error);
  }
  return best;
}

std::unique_ptr<FakeQuant> make_level_fake_quant(const LevelQuantizer& quantizer,
                                                 const at::Tensor& weight) {
  return std::make_unique<LevelFakeQuant>(quantizer, weight);
}

}  // namespace fewbit
