#include "fewbit/train/activation_sites.h"

#include <ATen/core/grad_mode.h>

#include "fewbit/base/error.h"
#include "fewbit/train/quantizer_registry.h"

namespace fewbit {
namespace {

std::unique_ptr<ActivationFakeQuant> make(const NamedOptions& quantizer) {
  return make_activation_fake_quant(quantizer.name, quantizer.options);
}

}  // namespace

ActivationSites::ActivationSites(std::string_view quantizer, const std::vector<std::string>& sites)
    : quantizer_(parse_named_options(quantizer)) {
  for (const std::string& site : sites) sites_.emplace(site, make(quantizer_));
}

ActivationSites ActivationSites::from_json(const Json& description) {
  const auto sites =
      json_get<std::map<std::string, std::map<std::string, double>>>(description, "sites");
  std::vector<std::string> names;
  for (const auto& [site, values] : sites) names.push_back(site);
  ActivationSites result(json_get<std::string>(description, "quantizer"), names);
  const at::NoGradGuard no_gradient;
  for (const auto& [site, values] : sites) {
    for (const QuantizerTensor& parameter : result.sites_.at(site)->parameters()) {
      const auto value = values.find(parameter.name);
      require(value != values.end(), "{}: '{}' is missing", site, parameter.name);
      at::Tensor(parameter.tensor).fill_(value->second);
    }
  }
  return result;
}

Json ActivationSites::to_json() const {
  Json sites = Json::object();
  for (const auto& [site, quantizer] : sites_) {
    Json& values = sites[site] = Json::object();
    for (const QuantizerTensor& parameter : quantizer->parameters()) {
      values[parameter.name] = parameter.tensor.item<double>();
    }
  }
  return {{"quantizer", to_text(quantizer_)}, {"sites", std::move(sites)}};
}

std::vector<QuantizerTensor> ActivationSites::parameters() const {
  std::vector<QuantizerTensor> all;
  for (const auto& [site, quantizer] : sites_) {
    for (const QuantizerTensor& parameter : quantizer->parameters()) {
      all.push_back({site + "." + parameter.name, parameter.tensor});
    }
  }
  return all;
}

ActivationSites ActivationSites::replica() const {
  ActivationSites copy;
  copy.quantizer_ = quantizer_;
  for (const auto& [site, quantizer] : sites_) {
    auto own = make(quantizer_);
    const auto from = quantizer->parameters();
    auto to = own->parameters();
    for (size_t i = 0; i < to.size(); ++i) to[i].tensor.set_data(from[i].tensor.detach());
    copy.sites_.emplace(site, std::move(own));
  }
  return copy;
}

BlockHooks ActivationSites::hooks() const {
  if (sites_.empty()) return {};
  BlockHooks hooks;
  hooks.at_site = [this](const std::string& site, const at::Tensor& value) {
    const auto found = sites_.find(site);
    return found == sites_.end() ? value : found->second->forward(value);
  };
  return hooks;
}

BlockHooks ActivationSites::starting_hooks() {
  BlockHooks hooks;
  hooks.at_site = [this](const std::string& site, const at::Tensor& value) {
    const auto found = sites_.find(site);
    if (found == sites_.end()) return value;
    found->second->start_from(value);
    return found->second->forward(value);
  };
  return hooks;
}

BlockHooks activation_hooks(const Json& description) {
  if (description.is_null()) return {};
  const auto sites = std::make_shared<ActivationSites>(
      with_context("key 'activations'", [&] { return ActivationSites::from_json(description); }));
  BlockHooks hooks = sites->hooks();
  hooks.at_site = [sites, inner = std::move(hooks.at_site)](const std::string& site,
                                                            const at::Tensor& value) {
    return inner ? inner(site, value) : value;
  };
  return hooks;
}

}  // namespace fewbit
