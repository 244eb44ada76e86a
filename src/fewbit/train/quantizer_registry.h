// The fake quantizers by name: what `quantizer=` and `activations=` of a training plan, `fewbit
// methods` and the docs know.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/options.h"
#include "fewbit/train/fake_quant.h"
#include "fewbit/train/fake_quant_activation.h"

namespace fewbit {

struct Quantizer {
  std::string name;
  std::string help;
  std::string source;             // paper or public specification
  std::vector<std::string> bits;  // allowed words: "1", "1.58", "2", ...
  std::vector<OptionSpec> options;
  // Parameters start from `weight` [out, in].
  std::function<std::unique_ptr<FakeQuant>(const OptionValues&, const at::Tensor& weight)> make;
};
// All weight quantizers, in the order of the documentation.
std::span<const Quantizer> quantizers();
// Error that names the known ones.
const Quantizer& find_quantizer(std::string_view name);
// Errors name the key and its allowed values.
std::unique_ptr<FakeQuant> make_fake_quant(std::string_view name,
                                           const std::map<std::string, std::string>& options,
                                           const at::Tensor& weight);

struct ActivationQuantizer {
  std::string name;
  std::string help;
  std::string source;
  std::vector<OptionSpec> options;
  std::function<std::unique_ptr<ActivationFakeQuant>(const OptionValues&)> make;
};
std::span<const ActivationQuantizer> activation_quantizers();
const ActivationQuantizer& find_activation_quantizer(std::string_view name);
std::unique_ptr<ActivationFakeQuant> make_activation_fake_quant(
    std::string_view name, const std::map<std::string, std::string>& options);

}  // namespace fewbit
