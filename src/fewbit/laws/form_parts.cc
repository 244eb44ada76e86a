#include "fewbit/laws/form_parts.h"

#include <algorithm>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

std::string level_label(std::span<const LawVariable> grouped_by, const FormLevel& level) {
  std::string label;
  for (size_t i = 0; i < level.size(); ++i) {
    label +=
        fmt::format("{}{}={:.6g}", i == 0 ? "" : ",", law_variable_symbol(grouped_by[i]), level[i]);
  }
  return label;
}

// Index of the level of `point` in the ascending list.
size_t level_of(const std::vector<FormLevel>& levels, std::span<const LawVariable> grouped_by,
                const LawPoint& point) {
  if (grouped_by.empty()) return 0;
  FormLevel level(grouped_by.size());
  for (size_t i = 0; i < level.size(); ++i) level[i] = point[grouped_by[i]];
  const auto found = std::lower_bound(levels.begin(), levels.end(), level);
  if (found == levels.end() || *found != level) {
    constexpr size_t kShown = 8;
    std::string known;
    for (size_t i = 0; i < std::min(levels.size(), kShown); ++i) {
      known += fmt::format("{}{}", i == 0 ? "" : "; ", level_label(grouped_by, levels[i]));
    }
    if (levels.size() > kShown) known += "; ...";
    fail("the law has no constants for {} (it has: {})", level_label(grouped_by, level), known);
  }
  return static_cast<size_t>(found - levels.begin());
}

// Where the parameters of each term stand: shared ones once, per-level ones level by level.
struct Layout {
  std::vector<LogLinearTerm> terms;
  std::vector<FormLevel> levels;
  std::vector<LawVariable> grouped_by;
  size_t per_level = 0, size = 0;

  Layout(std::vector<LogLinearTerm> all_terms, std::vector<FormLevel> all_levels,
         std::vector<LawVariable> groups)
      : terms(std::move(all_terms)), levels(std::move(all_levels)), grouped_by(std::move(groups)) {
    size_t shared = 0;
    for (const LogLinearTerm& term : terms) ++(term.per_level ? per_level : shared);
    size = shared + per_level * std::max<size_t>(1, levels.size());
  }

  // Calls visit(term, parameter index) for the columns that are not zero at a level.
  template <class Visit>
  void for_level(size_t level, Visit visit) const {
    size_t own = level * per_level;
    size_t shared = per_level * std::max<size_t>(1, levels.size());
    for (const LogLinearTerm& term : terms) visit(term, term.per_level ? own++ : shared++);
  }
};

}  // namespace

LogLinearTerm intercept_term(std::string name, bool per_level) {
  return {std::move(name), "ln of the prefactor", [](const LawPoint&) { return 1.0; }, per_level};
}

LogLinearTerm tokens_term(std::string name, bool per_level) {
  return {std::move(name), "exponent of the training tokens",
          [](const LawPoint& at) { return at.ln(LawVariable::tokens); }, per_level};
}

LogLinearTerm size_term(std::string name, bool per_level) {
  return {std::move(name), "exponent of the model size (in the denominator)",
          [](const LawPoint& at) { return -at.ln(LawVariable::params); }, per_level};
}

LogLinearTerm bits_power_term() {
  return {"gamma", "exponent of the bit width (in the denominator)",
          [](const LawPoint& at) { return -at.ln(LawVariable::bits); }};
}

LogLinearTerm inverse_bits_scale_term() {
  return {"1/gamma", "reciprocal of the bits over which QiD falls by e",
          [](const LawPoint& at) { return -at[LawVariable::bits]; }};
}

Form make_log_linear(std::vector<LogLinearTerm> terms, std::vector<FormLevel> levels,
                     std::vector<LawVariable> grouped_by, std::optional<Reciprocal> reciprocal) {
  const Layout layout(std::move(terms), std::move(levels), std::move(grouped_by));
  Form form;
  form.fitted.resize(layout.size);
  form.reported.resize(layout.size);
  std::vector<bool> inverted(layout.size, false);
  const size_t level_count = std::max<size_t>(1, layout.levels.size());
  for (size_t level = 0; level < level_count; ++level) {
    layout.for_level(level, [&](const LogLinearTerm& term, size_t index) {
      const bool labelled = term.per_level && !layout.grouped_by.empty();
      const std::string suffix =
          labelled ? fmt::format("[{}]", level_label(layout.grouped_by, layout.levels[level])) : "";
      form.fitted[index] = {term.name + suffix, term.meaning};
      inverted[index] = reciprocal && term.name == reciprocal->fitted;
      if (inverted[index]) {
        form.reported[index] = {reciprocal->reported + suffix, "reciprocal of " + term.name,
                                -kInfinity, kInfinity,
                                [index](std::span<const double> at, std::span<double> gradient) {
                                  if (!gradient.empty()) {
                                    std::fill(gradient.begin(), gradient.end(), 0.0);
                                    gradient[index] = -1 / (at[index] * at[index]);
                                  }
                                  return 1 / at[index];
                                }};
      } else {
        form.reported[index] = report_same(index, term.name + suffix, term.meaning);
      }
    });
  }
  form.levels = layout.levels;
  form.design = [layout](const LawPoint& point, std::span<double> row) {
    std::fill(row.begin(), row.end(), 0.0);
    layout.for_level(
        level_of(layout.levels, layout.grouped_by, point),
        [&](const LogLinearTerm& term, size_t index) { row[index] = term.term(point); });
  };
  form.log_value = [layout](std::span<const double> fitted, const LawPoint& point,
                            std::span<double> gradient) {
    double sum = 0;
    std::fill(gradient.begin(), gradient.end(), 0.0);
    layout.for_level(level_of(layout.levels, layout.grouped_by, point),
                     [&](const LogLinearTerm& term, size_t index) {
                       const double x = term.term(point);
                       sum += fitted[index] * x;
                       if (!gradient.empty()) gradient[index] = x;
                     });
    return sum;
  };
  form.from_reported = [inverted](std::span<const double> reported) {
    std::vector<double> fitted(reported.begin(), reported.end());
    for (size_t i = 0; i < fitted.size(); ++i) {
      if (inverted[i]) fitted[i] = 1 / fitted[i];
    }
    return fitted;
  };
  return form;
}

ReportedParameter report_same(size_t index, std::string name, std::string meaning, double lower,
                              double upper) {
  return {std::move(name), std::move(meaning), lower, upper,
          [index](std::span<const double> at, std::span<double> gradient) {
            if (!gradient.empty()) {
              std::fill(gradient.begin(), gradient.end(), 0.0);
              gradient[index] = 1;
            }
            return at[index];
          }};
}

ReportedParameter report_exp(size_t index, std::string name, std::string meaning) {
  return {std::move(name), std::move(meaning), 0, kInfinity,
          [index](std::span<const double> at, std::span<double> gradient) {
            const double value = std::exp(at[index]);
            if (!gradient.empty()) {
              std::fill(gradient.begin(), gradient.end(), 0.0);
              gradient[index] = value;
            }
            return value;
          }};
}

double log_add_exp(double a, double b) {
  const double high = std::max(a, b), low = std::min(a, b);
  return high + std::log1p(std::exp(low - high));
}

double log_sum_exp(std::span<const double> terms, std::span<double> shares) {
  const double high = *std::max_element(terms.begin(), terms.end());
  double sum = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const double term = std::exp(terms[i] - high);
    if (!shares.empty()) shares[i] = term;
    sum += term;
  }
  for (double& share : shares) share /= sum;
  return high + std::log(sum);
}

std::vector<std::vector<double>> grid_of_starts(const std::vector<std::vector<double>>& values) {
  std::vector<std::vector<double>> grid = {{}};
  for (const auto& choices : values) {
    std::vector<std::vector<double>> longer;
    for (const auto& head : grid) {
      for (const double choice : choices) {
        longer.push_back(head);
        longer.back().push_back(choice);
      }
    }
    grid = std::move(longer);
  }
  return grid;
}

}  // namespace fewbit
