#include "fewbit/model/config_reader.h"

#include <array>
#include <cmath>
#include <utility>

#include "fewbit/base/log.h"

namespace fewbit {
namespace {

constexpr size_t kShownValue = 80;

std::string shown(const Json& value) { return value.dump().substr(0, kShownValue); }

// Names that transformers gives to the activations that we have.
constexpr std::array<std::pair<std::string_view, Activation>, 10> kActivations = {{
    {"silu", Activation::silu},
    {"swish", Activation::silu},
    {"gelu", Activation::gelu},
    {"gelu_python", Activation::gelu},
    {"gelu_new", Activation::gelu_tanh},
    {"gelu_fast", Activation::gelu_tanh},
    {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"relu", Activation::relu},
    {"relu2", Activation::relu_squared},
    {"relu_squared", Activation::relu_squared},
}};

double finite_number(const Json& value, const char* key) {
  require(value.is_number(), "key '{}': {} is not a number", key, shown(value));
  const double number = value.get<double>();
  require(std::isfinite(number), "key '{}': {} is not finite", key, shown(value));
  return number;
}

double require_number(const Json& object, const char* key) {
  const auto found = object.find(key);
  require(found != object.end(), "key '{}' is missing", key);
  return finite_number(*found, key);
}

RopeScaling read_scaling(const Json& object) {
  RopeScaling scaling;
  // Older files spell rope_type "type".
  const char* type_key = object.contains("rope_type") ? "rope_type" : "type";
  const std::string type = json_get_or<std::string>(object, type_key, "default");
  if (type == "default") return scaling;
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
    scaling.factor = require_number(object, "factor");
    return scaling;
  }
  if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::llama3;
    scaling.factor = require_number(object, "factor");
    scaling.low_frequency_factor = require_number(object, "low_freq_factor");
    scaling.high_frequency_factor = require_number(object, "high_freq_factor");
    scaling.original_context = require_number(object, "original_max_position_embeddings");
    return scaling;
  }
  fail("key '{}': '{}' is not supported (allowed: default, linear, llama3)", type_key, type);
}

}  // namespace

bool ConfigReader::has(const char* key) const {
  const auto found = json_.find(key);
  return found != json_.end() && !found->is_null();
}

double ConfigReader::number_or(const char* key, double fallback) const {
  return has(key) ? finite_number(json_.at(key), key) : fallback;
}

std::optional<double> ConfigReader::number(const char* key) const {
  if (!has(key)) return std::nullopt;
  return finite_number(json_.at(key), key);
}

bool ConfigReader::flag_or(const char* key, bool fallback) const {
  return json_get_or<bool>(json_, key, fallback);
}

std::string ConfigReader::text_or(const char* key, const std::string& fallback) const {
  return json_get_or<std::string>(json_, key, fallback);
}

Activation ConfigReader::activation(std::initializer_list<const char*> keys,
                                    const char* fallback) const {
  const char* key = *keys.begin();
  std::string name = fallback;
  for (const char* candidate : keys) {
    if (!has(candidate)) continue;
    key = candidate;
    name = json_get<std::string>(json_, candidate);
    break;
  }
  std::string allowed;
  for (const auto& [known, activation] : kActivations) {
    if (known == name) return activation;
    if (!allowed.empty()) allowed += ", ";
    allowed += known;
  }
  fail("key '{}': '{}' is not supported (allowed: {})", key, name.substr(0, kShownValue), allowed);
}

void ConfigReader::expect_flag(const char* key, bool only) const {
  require(flag_or(key, only) == only, "key '{}': {} is not supported (allowed: {})", key, !only,
          only);
}

void ConfigReader::expect_number(const char* key, double only) const {
  const double value = number_or(key, only);
  require(value == only, "key '{}': {} is not supported (allowed: {})", key, value, only);
}

void ConfigReader::expect_absent(const char* key, std::string_view why) const {
  if (!has(key)) return;
  const Json& value = json_.at(key);
  require((value.is_array() || value.is_object()) && value.empty(),
          "key '{}': {} is not supported ({})", key, shown(value), why);
}

std::vector<int32_t> ConfigReader::token_ids(const char* key, size_t vocab_size) const {
  std::vector<int32_t> ids;
  if (!has(key)) return ids;
  const Json& value = json_.at(key);
  const auto add = [&](const Json& id) {
    require(id.is_number_integer(), "key '{}': {} is not a token id or a list of them", key,
            shown(value));
    const int64_t number = id.get<int64_t>();
    if (number < 0 || number >= static_cast<int64_t>(vocab_size)) {
      warn("key '{}': token {} is outside the vocabulary of {} and is ignored", key, number,
           vocab_size);
      return;
    }
    ids.push_back(static_cast<int32_t>(number));
  };
  if (value.is_array()) {
    for (const Json& id : value) add(id);
  } else {
    add(value);
  }
  return ids;
}

BlockSpec read_rope(const ConfigReader& config, double default_base,
                    const std::string& layer_type) {
  BlockSpec rope;
  if (config.has("rope_parameters")) {
    const Json* parameters = &config.json().at("rope_parameters");
    require(parameters->is_object(), "key 'rope_parameters': {} is not an object",
            shown(*parameters));
    if (!layer_type.empty() && parameters->contains(layer_type)) {
      parameters = &parameters->at(layer_type);
    }
    return with_context("rope_parameters", [&] {
      require(parameters->is_object(), "{} is not an object", shown(*parameters));
      const ConfigReader reader(*parameters);
      rope.rope_base = reader.number_or("rope_theta", config.number_or("rope_theta", default_base));
      rope.rope_scaling = read_scaling(*parameters);
      return rope;
    });
  }
  rope.rope_base = config.number_or("rope_theta", default_base);
  if (config.has("rope_scaling")) {
    const Json& scaling = config.json().at("rope_scaling");
    with_context("rope_scaling", [&] {
      require(scaling.is_object(), "{} is not an object", shown(scaling));
      rope.rope_scaling = read_scaling(scaling);
    });
  }
  return rope;
}

}  // namespace fewbit
