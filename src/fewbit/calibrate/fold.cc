#include "fewbit/calibrate/fold.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

at::Tensor& parameter(ParameterMap& parameters, const std::string& name) {
  const auto found = parameters.find(name);
  require(found != parameters.end(), "{}: the block has no such tensor", name);
  return found->second;
}

void require_size(const std::string& name, int64_t have, size_t want) {
  require(have == static_cast<int64_t>(want), "{}: {} entries where the scale has {}", name, have,
          want);
}

// Which shared value each column belongs to, and how many there are.
std::vector<size_t> rows_of_columns(const ModelSpec& spec, const FoldGroup& group) {
  std::vector<size_t> rows(group.in_features);
  for (size_t c = 0; c < rows.size(); ++c) rows[c] = partner_row(spec, group.steps.front(), c);
  return rows;
}

// The scale by rows of the partner, all of which `rows` must name.
std::vector<float> by_row(const FoldGroup& group, std::span<const size_t> rows,
                          std::span<const float> scale) {
  std::vector<float> result(1 + *std::max_element(rows.begin(), rows.end()), 0.0f);
  for (size_t c = 0; c < rows.size(); ++c) {
    float& entry = result[rows[c]];
    require(entry == 0 || entry == scale[c],
            "{}: column {} has scale {}, but another column of the same row of {} has {}",
            group.site(), c, scale[c], group.partner, entry);
    entry = scale[c];
  }
  return result;
}

// Values of the partner's rows at the columns that come from them.
at::Tensor at_columns(const ModelSpec& spec, const FoldGroup& group, const at::Tensor& of_rows) {
  if (group.fold == FoldKind::norm) return of_rows;
  const std::vector<size_t> rows = rows_of_columns(spec, group);
  const std::vector<int64_t> index(rows.begin(), rows.end());
  return of_rows.index_select(0, at::tensor(index, at::kLong).to(of_rows.device()));
}

}  // namespace

std::vector<FoldGroup> fold_groups(std::span<const Step> steps) {
  std::vector<FoldGroup> groups;
  for (const Step& step : steps) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const FoldGroup& group) {
      return step.fold != FoldKind::none && group.fold == step.fold &&
             group.partner == step.partner;
    });
    if (same != groups.end()) {
      same->steps.push_back(step);
      for (const std::string& reader : step.readers) {
        if (std::find(same->readers.begin(), same->readers.end(), reader) == same->readers.end()) {
          same->readers.push_back(reader);
        }
      }
      continue;
    }
    groups.push_back({{step}, step.fold, step.partner, step.readers, step.in_features});
  }
  return groups;
}

std::string fold_obstacle(const ModelSpec& spec, const FoldGroup& group) {
  const bool reads_embedding =
      std::find(group.readers.begin(), group.readers.end(), "head") != group.readers.end() &&
      spec.tied_head;
  if (reads_embedding) {
    return "the head is the embedding, whose columns the first block reads unscaled";
  }
  if (group.fold != FoldKind::none) return "";
  if (!spec.norm_first && group.steps.front().module_output != "") {
    return "the norm before it stands on the residual stream (norm_first = false)";
  }
  return "it comes through a function that no scale passes";
}

void share_columns(const ModelSpec& spec, const FoldGroup& group, SharedColumns combine,
                   std::span<double> values) {
  require_size(group.site(), static_cast<int64_t>(values.size()), group.in_features);
  if (group.fold != FoldKind::rows) return;
  const std::vector<size_t> rows = rows_of_columns(spec, group);
  std::vector<double> combined(1 + *std::max_element(rows.begin(), rows.end()), 0.0);
  std::vector<size_t> counts(combined.size(), 0);
  for (size_t c = 0; c < rows.size(); ++c) {
    double& entry = combined[rows[c]];
    const bool first = counts[rows[c]]++ == 0;
    if (combine == SharedColumns::mean) {
      entry += values[c];
    } else {
      entry = first ? values[c] : std::max(entry, values[c]);
    }
  }
  for (size_t c = 0; c < rows.size(); ++c) {
    const double count =
        combine == SharedColumns::mean ? static_cast<double>(counts[rows[c]]) : 1.0;
    values[c] = combined[rows[c]] / count;
  }
}

void fold_scale(const ModelSpec& spec, const FoldGroup& group, std::span<const float> scale,
                ParameterMap& parameters) {
  const std::string obstacle = fold_obstacle(spec, group);
  require(obstacle.empty(), "{}: no scale of it can be folded: {}", group.site(), obstacle);
  require_size(group.site(), static_cast<int64_t>(scale.size()), group.in_features);
  for (size_t c = 0; c < scale.size(); ++c) {
    require(std::isfinite(scale[c]) && scale[c] > 0,
            "{}: the scale of column {} is {}; it must be positive and finite", group.site(), c,
            scale[c]);
  }
  const std::vector<float> rows = by_row(group, rows_of_columns(spec, group), scale);
  const at::Tensor host = at::empty({static_cast<int64_t>(rows.size())}, at::kFloat);
  std::ranges::copy(rows, host.data_ptr<float>());
  fold_scale(spec, group, host.to(parameter(parameters, group.partner + ".weight").device()),
             parameters);
}

size_t partner_rows(const ModelSpec& spec, const FoldGroup& group) {
  const std::vector<size_t> rows = rows_of_columns(spec, group);
  return 1 + *std::max_element(rows.begin(), rows.end());
}

void fold_scale(const ModelSpec& spec, const FoldGroup& group, const at::Tensor& row_scale,
                ParameterMap& parameters) {
  at::Tensor& weight = parameter(parameters, group.partner + ".weight");
  require_size(group.partner, weight.size(0), static_cast<size_t>(row_scale.numel()));
  if (group.fold == FoldKind::norm) {
    weight = spec.norm_plus_one ? (weight + 1) / row_scale - 1 : weight / row_scale;
  } else {
    weight = weight / row_scale.unsqueeze(1);
  }
  const auto bias = parameters.find(group.partner + ".bias");
  if (bias != parameters.end()) bias->second = bias->second / row_scale;
  const at::Tensor columns = at_columns(spec, group, row_scale);
  for (const std::string& reader : group.readers) {
    at::Tensor& read = parameter(parameters, reader + ".weight");
    require_size(reader, read.size(1), static_cast<size_t>(columns.numel()));
    read = read * columns;
  }
}

bool takes_shift(const FoldGroup& group, const ParameterMap& parameters) {
  const bool passes = group.fold == FoldKind::norm || group.partner.ends_with(".attn.v");
  return passes && parameters.contains(group.partner + ".bias") &&
         std::ranges::all_of(group.readers, [&](const std::string& reader) {
           return parameters.contains(reader + ".bias");
         });
}

void fold_shift(const ModelSpec& spec, const FoldGroup& group, const at::Tensor& row_shift,
                ParameterMap& parameters) {
  require(takes_shift(group, parameters), "{}: no shift of it can be folded", group.site());
  at::Tensor& bias = parameter(parameters, group.partner + ".bias");
  require_size(group.partner, bias.numel(), static_cast<size_t>(row_shift.numel()));
  bias = bias - row_shift;
  const at::Tensor columns = at_columns(spec, group, row_shift);
  for (const std::string& reader : group.readers) {
    at::Tensor& gains = parameter(parameters, reader + ".bias");
    // Not as a product of BLAS, whose order of summation may depend on the threads.
    gains = gains + (parameter(parameters, reader + ".weight") * columns).sum(1);
  }
}

void require_unquantized(const BlockContext& block, const FoldGroup& group) {
  std::vector<std::string> touched = group.readers;
  touched.push_back(group.partner);
  for (const std::string& layer : touched) {
    require(
        !block.quantized.contains(layer),
        "{}: its codes stand already and cannot be scaled; transforms come before the pass that "
        "quantizes",
        layer);
  }
}

void fold_scale(BlockContext& block, const FoldGroup& group, std::span<const float> scale) {
  require_unquantized(block, group);
  ParameterMap exact = block.exact_parameters();
  fold_scale(block.spec(), group, scale, block.parameters);
  if (block.exact.empty()) return;
  fold_scale(block.spec(), group, scale, exact);
  for (auto& [name, tensor] : block.exact) tensor = exact.at(name);
}

}  // namespace fewbit
