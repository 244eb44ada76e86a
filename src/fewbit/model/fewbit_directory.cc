#include "fewbit/model/fewbit_directory.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/containers.h"
#include "fewbit/model/stored_rows.h"
#include "fewbit/model/stored_source.h"
#include "fewbit/model/wiring.h"

namespace fewbit {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

// Plain tensors come from `plain`; weights of quantized linears from their codes.
class FewbitSource : public TensorSource, public StoredRowsSource {
 public:
  FewbitSource(const ModelSpec& spec, HfDirectory directory, Json descriptions)
      : directory_(std::move(directory)), descriptions_(std::move(descriptions)) {
    const std::vector<std::string> linears = quantizable_linears(spec);
    std::set<std::string, std::less<>> known(linears.begin(), linears.end());
    known.insert({"embed", "head"});
    for (const auto& [layer, description] : descriptions_.items()) {
      require(known.contains(layer), "key 'quantized': '{}' is no layer of this model", layer);
    }
    std::vector<TensorBinding> plain;
    for (TensorBinding& binding : canonical_bindings(spec)) {
      names_.push_back(binding.canonical);
      if (const std::string layer = layer_of(binding.canonical); !layer.empty()) {
        shapes_.emplace(layer, binding.shape);
        collect_parts(layer);
      } else {
        plain.push_back(std::move(binding));
      }
    }
    plain_ = bind_tensors(safetensors_container(directory_), std::move(plain), part_names_);
  }

  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override {
    return !layer_of(name).empty() || plain_->contains(name);
  }

  TensorInfo info(std::string_view name) const override {
    const std::string layer = layer_of(name);
    if (layer.empty()) return plain_->info(name);
    TensorInfo information{shapes_.at(layer), "codes", 0};
    for (const std::string& part : parts_.at(layer)) {
      information.stored_bytes += directory_.tensor(part).bytes.size();
    }
    return information;
  }

  using TensorSource::load;
  void load(std::string_view name, std::span<float> out) const override {
    const std::string layer = layer_of(name);
    if (layer.empty()) return plain_->load(name, out);
    const QuantizedMatrix matrix = *quantized(layer);
    require(out.size() == matrix.weights(), "tensor {}: {} elements asked for, {} present", name,
            out.size(), matrix.weights());
    const Matrix values = matrix.dequantize();
    std::copy(values.values().begin(), values.values().end(), out.begin());
  }

  std::span<const float> borrow(std::string_view name) const override {
    return layer_of(name).empty() ? plain_->borrow(name) : std::span<const float>{};
  }

  std::optional<StoredRows> stored_rows(std::string_view name) const override {
    return layer_of(name).empty() ? fewbit::stored_rows(*plain_, name) : std::nullopt;
  }

  std::optional<QuantizedMatrix> quantized(std::string_view layer) const override {
    const auto description = descriptions_.find(layer);
    if (description == descriptions_.end()) return std::nullopt;
    return with_context(fmt::format("{}: {}", directory_.path().string(), layer), [&] {
      QuantizedMatrix matrix = QuantizedMatrix::from_tensors(
          *description, std::string(layer),
          [&](std::string_view part) { return directory_.find(part); });
      const std::vector<size_t>& shape = shapes_.find(layer)->second;
      require(matrix.rows() == shape[0] && matrix.cols() == shape[1],
              "codes of [{}, {}] should be [{}, {}]", matrix.rows(), matrix.cols(), shape[0],
              shape[1]);
      return std::optional<QuantizedMatrix>(std::move(matrix));
    });
  }

 private:
  // The quantized layer whose weight `name` is; empty if it is a plain tensor.
  std::string layer_of(std::string_view name) const {
    if (!name.ends_with(kWeightSuffix)) return {};
    std::string layer(name.substr(0, name.size() - kWeightSuffix.size()));
    return descriptions_.contains(layer) ? layer : std::string();
  }

  // The stored tensors named layer + "." + part; a bias is no part.
  void collect_parts(const std::string& layer) {
    std::vector<std::string>& parts = parts_[layer];
    for (const std::string& name : directory_.tensor_names()) {
      if (!name.starts_with(layer + ".") || name == layer + ".bias") continue;
      parts.push_back(name);
      part_names_.insert(name);
    }
    require(!parts.empty(), "{}: the codes of {} are missing", directory_.path().string(), layer);
  }

  HfDirectory directory_;
  Json descriptions_;
  std::vector<std::string> names_;
  std::map<std::string, std::vector<size_t>, std::less<>> shapes_;
  std::map<std::string, std::vector<std::string>, std::less<>> parts_;
  std::set<std::string, std::less<>> part_names_;
  std::shared_ptr<const TensorSource> plain_;
};

}  // namespace

bool is_fewbit_config(const Json& config) {
  return config.is_object() && config.contains(kFewbitKey);
}

Json fewbit_config(const ModelSpec& spec, const Json& quantized, const Json& activations) {
  Json own = {{"version", kFewbitVersion}, {"spec", spec_to_json(spec)}, {"quantized", quantized}};
  if (!activations.is_null()) own["activations"] = activations;
  return {{"model_type", spec.architecture}, {kFewbitKey, std::move(own)}};
}

FewbitModel open_fewbit_directory(const Json& config, HfDirectory directory) {
  return with_context(fmt::format("key '{}'", kFewbitKey), [&] {
    const Json own = json_get<Json>(config, kFewbitKey);
    const int version = json_get<int>(own, "version");
    require(version == kFewbitVersion, "key 'version': {} is not supported (allowed: {})", version,
            kFewbitVersion);
    Json descriptions = json_get_or<Json>(own, "quantized", Json::object());
    require(descriptions.is_object(), "key 'quantized': is not an object");
    FewbitModel model;
    model.activations = json_get_or<Json>(own, "activations", Json());
    require(model.activations.is_null() || model.activations.is_object(),
            "key 'activations': is not an object");
    model.spec = with_context("spec", [&] { return spec_from_json(json_get<Json>(own, "spec")); });
    model.tensors =
        std::make_shared<FewbitSource>(model.spec, std::move(directory), std::move(descriptions));
    return model;
  });
}

}  // namespace fewbit
