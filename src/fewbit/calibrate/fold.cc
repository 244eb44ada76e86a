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
std::vector<size_t> partner_rows(const ModelSpec& spec, const FoldGroup& group) {
  std::vector<size_t> rows(group.in_features);
  for (size_t c = 0; c < rows.size(); ++c) rows[c] = partner_row(spec, group.steps.front(), c);
  return rows;
}

// The scale by rows of the partner. `rows` need not name every row: none of a linear's output may
// be left out, but a check of sizes is the caller's.
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

void fold_into_norm(const ModelSpec& spec, const FoldGroup& group, const at::Tensor& scale,
                    ParameterMap& parameters) {
  at::Tensor& weight = parameter(parameters, group.partner + ".weight");
  require_size(group.partner, weight.numel(), group.in_features);
  weight = spec.norm_plus_one ? (weight + 1) / scale - 1 : weight / scale;
  const auto bias = parameters.find(group.partner + ".bias");
  if (bias != parameters.end()) bias->second = bias->second / scale;
}

void fold_into_rows(const FoldGroup& group, const at::Tensor& scale, ParameterMap& parameters) {
  at::Tensor& weight = parameter(parameters, group.partner + ".weight");
  require_size(group.partner, weight.size(0), static_cast<size_t>(scale.numel()));
  weight = weight / scale.unsqueeze(1);
  const auto bias = parameters.find(group.partner + ".bias");
  if (bias != parameters.end()) bias->second = bias->second / scale;
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
  const std::vector<size_t> rows = partner_rows(spec, group);
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
  const auto as_tensor = [&](std::span<const float> values) {
    const at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
    std::copy(values.begin(), values.end(), host.data_ptr<float>());
    return host.to(parameter(parameters, group.partner + ".weight").device());
  };
  const at::Tensor columns = as_tensor(scale);
  if (group.fold == FoldKind::norm) {
    fold_into_norm(spec, group, columns, parameters);
  } else {
    fold_into_rows(group, as_tensor(by_row(group, partner_rows(spec, group), scale)), parameters);
  }
  for (const std::string& reader : group.readers) {
    at::Tensor& weight = parameter(parameters, reader + ".weight");
    require_size(reader, weight.size(1), group.in_features);
    weight = weight * columns;
  }
}

void fold_scale(BlockContext& block, const FoldGroup& group, std::span<const float> scale) {
  std::vector<std::string> touched = group.readers;
  touched.push_back(group.partner);
  for (const std::string& layer : touched) {
    require(
        !block.quantized.contains(layer),
        "{}: its codes stand already and cannot be scaled; transforms come before the pass that "
        "quantizes",
        layer);
  }
  fold_scale(block.spec(), group, scale, block.parameters);
}

}  // namespace fewbit
