#include "fewbit/laws/form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/laws/presets.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

// A point that every form can be asked at, different for each `i`.
LawPoint some_point(size_t i) {
  RandomStream random(i, "form test");
  LawPoint point(std::exp(18 + 4 * random.uniform()), std::exp(22 + 4 * random.uniform()),
                 2 + static_cast<double>(i % 3));
  point.set(LawVariable::group_size, 16 * static_cast<double>(1 + i % 5));
  point.set(LawVariable::lr_ratio, 0.1 + 0.9 * random.uniform());
  point.set(LawVariable::train_bits, 6 + static_cast<double>(i % 7));
  point.set(LawVariable::activation_bits, 6 + static_cast<double>(i % 5));
  point.set(LawVariable::cache_bits, 6 + static_cast<double>(i % 4));
  point.set(LawVariable::exponent_bits, 2 + static_cast<double>(i % 3));
  point.set(LawVariable::mantissa_bits, 1 + static_cast<double>(i % 4));
  point.set(LawVariable::gmse, 0.001 + 0.2 * random.uniform());
  return point;
}

std::vector<LawPoint> some_points(size_t count) {
  std::vector<LawPoint> points;
  for (size_t i = 0; i < count; ++i) points.push_back(some_point(i));
  return points;
}

// Parameters of plausible size for a form: its first start, or small numbers.
std::vector<double> some_parameters(const Form& form, const std::vector<LawPoint>& points) {
  std::vector<double> parameters(form.fitted.size());
  if (form.starts) {
    const std::vector<double> values(points.size(), 3.0);
    parameters = form.starts(points, values)[0];
  }
  RandomStream random(1, "parameters");
  for (double& parameter : parameters) parameter += 0.1 + 0.05 * random.uniform();
  return parameters;
}

TEST(FormTest, GradientsOfAllFormsAgreeWithFiniteDifferences) {
  const auto points = some_points(12);
  for (const FormInfo& info : law_forms()) {
    SCOPED_TRACE(info.name);
    const Form form = info.bind(points);
    const auto parameters = some_parameters(form, points);
    for (const LawPoint& point : points) {
      ASSERT_EQ(info.problem_at(point), "");
      std::vector<double> gradient(parameters.size());
      const double value = form.log_value(parameters, point, gradient);
      ASSERT_TRUE(std::isfinite(value));
      EXPECT_EQ(value, form.log_value(parameters, point, {}));
      for (size_t j = 0; j < parameters.size(); ++j) {
        const double step = 1e-5 * (1 + std::abs(parameters[j]));
        auto up = parameters, down = parameters;
        up[j] += step;
        down[j] -= step;
        const double numeric =
            (form.log_value(up, point, {}) - form.log_value(down, point, {})) / (2 * step);
        EXPECT_NEAR(gradient[j], numeric, 1e-6 * (1 + std::abs(numeric))) << form.fitted[j].name;
      }
    }
  }
}

TEST(FormTest, ReportedParametersHaveGradientsAndAnInverse) {
  const auto points = some_points(12);
  for (const FormInfo& info : law_forms()) {
    SCOPED_TRACE(info.name);
    const Form form = info.bind(points);
    const auto fitted = some_parameters(form, points);
    const auto reported = form.reported_values(fitted);
    const auto back = form.from_reported(reported);
    ASSERT_EQ(back.size(), fitted.size());
    for (size_t j = 0; j < fitted.size(); ++j) {
      EXPECT_NEAR(back[j], fitted[j], 1e-10 * (1 + std::abs(fitted[j])));
    }
    for (const ReportedParameter& parameter : form.reported) {
      std::vector<double> gradient(fitted.size());
      const double value = parameter.value(fitted, gradient);
      EXPECT_GE(value, parameter.lower);
      EXPECT_LE(value, parameter.upper);
      for (size_t j = 0; j < fitted.size(); ++j) {
        const double step = 1e-5 * (1 + std::abs(fitted[j]));
        auto up = fitted, down = fitted;
        up[j] += step;
        down[j] -= step;
        const double numeric = (parameter.value(up, {}) - parameter.value(down, {})) / (2 * step);
        EXPECT_NEAR(gradient[j], numeric, 1e-6 * (1 + std::abs(numeric))) << parameter.name;
      }
    }
  }
}

TEST(FormTest, DesignRowsGiveTheLogValue) {
  const auto points = some_points(9);
  for (const FormInfo& info : law_forms()) {
    const Form form = info.bind(points);
    if (!form.log_linear()) continue;
    const auto parameters = some_parameters(form, points);
    std::vector<double> row(parameters.size());
    for (const LawPoint& point : points) {
      form.design(point, row);
      double sum = 0;
      for (size_t j = 0; j < row.size(); ++j) sum += row[j] * parameters[j];
      EXPECT_NEAR(sum, form.log_value(parameters, point, {}), 1e-9) << info.name;
    }
  }
}

TEST(FormTest, NamesAreUniqueAndUnknownOnesAreRefusedWithAList) {
  std::set<std::string> names;
  for (const FormInfo& info : law_forms()) EXPECT_TRUE(names.insert(info.name).second) << info.name;
  try {
    find_law_form("nothing");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("per_bits"));
  }
  EXPECT_THROW(read_fit_objective("least"), Error);
}

TEST(FormTest, SaysWhyAPointCannotBeAsked) {
  const FormInfo& unified = find_law_form("unified");
  EXPECT_EQ(unified.problem_at(LawPoint(1e9, 1e11)), "no bits");
  EXPECT_THAT(unified.problem_at(LawPoint(1e9, 0, 3)), HasSubstr("D = 0"));
  LawPoint point(1e9, 1e11, 3);
  EXPECT_EQ(unified.problem_at(point), "");
  point.set(LawVariable::group_size, 1);
  EXPECT_NE(find_law_form("qat_group").problem_at(point), "");
  point.set(LawVariable::train_bits, 3);
  EXPECT_NE(find_law_form("trained_low").problem_at(point), "");
}

TEST(FormTest, UnknownLevelsAreRefusedByName) {
  const Law law = law_of(find_law_preset("ouyang-per-bits"));
  EXPECT_GT(law.value(LawPoint(1e9, 1e11, 3)), 0);
  try {
    law.value(LawPoint(1e9, 1e11, 5));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("P=5"));
    EXPECT_THAT(error.what(), HasSubstr("P=4"));
  }
}

TEST(PresetTest, NameParametersOfTheirFormsOnly) {
  for (const LawPreset& preset : law_presets()) {
    SCOPED_TRACE(preset.name);
    const FormInfo& info = find_law_form(preset.form);
    std::set<std::string> known;
    if (info.grouped_by.empty() || !preset.levels.empty()) {
      for (const auto& parameter : info.bind_levels(preset.levels).reported) {
        known.insert(parameter.name);
      }
      for (const auto& [name, value] : preset.values) EXPECT_TRUE(known.contains(name)) << name;
    }
    if (preset.complete()) {
      EXPECT_EQ(law_of(preset).form.reported_values(law_of(preset).fitted).size(),
                preset.values.size());
    } else {
      EXPECT_THROW(law_of(preset), Error);
    }
  }
}

TEST(PresetTest, GiveThePublishedLosses) {
  const Law kaplan = law_of(find_law_preset("pythia-kaplan"));
  EXPECT_NEAR(kaplan.value(LawPoint(85056000, 1e9)), 6.215, 5e-4);
  EXPECT_NEAR(kaplan.value(LawPoint(85056000, 1e10)), 3.820, 5e-4);
  EXPECT_NEAR(kaplan.value(LawPoint(85056000, 2.055e11)), 3.401, 5e-4);
  EXPECT_NEAR(kaplan.value(LawPoint(11327027200, 2.055e11)), 2.743, 5e-4);
  LawPoint qat(74e6, 10e9);
  qat.set(LawVariable::group_size, 32);
  EXPECT_NEAR(law_of(find_law_preset("chen-w4a4")).value(qat), 0.0586, 5e-5);
}

TEST(PresetTest, CountPythiaParameters) {
  EXPECT_EQ(pythia_params(12, 768), 85056000);
  EXPECT_EQ(pythia_params(24, 1024), 302311424);
  EXPECT_EQ(pythia_params(16, 2048), 805736448);
  EXPECT_EQ(pythia_params(32, 2560), 2517652480);
  EXPECT_EQ(pythia_params(32, 4096), 6444163072);
  EXPECT_EQ(pythia_params(36, 5120), 11327027200);
}

TEST(PresetTest, GroupLawDoublesBySquaringTheGroup) {
  const Law law = law_of(find_law_preset("chen-w4a16"));
  LawPoint small(1e8, 1e10), large(1e8, 1e10);
  small.set(LawVariable::group_size, 16);
  large.set(LawVariable::group_size, 256);
  EXPECT_NEAR(law.value(large) / law.value(small), std::pow(2, 0.3533), 1e-12);
}

}  // namespace
}  // namespace fewbit
