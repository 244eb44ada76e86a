// Reading a config.json: typed values with the family's defaults, and refusals that name the key,
// its value and what is allowed.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/model/model_spec.h"

namespace fewbit {

// Largest size, and largest token id, that a config may state.
inline constexpr size_t kMaxConfigSize = size_t{1} << 31;

class ConfigReader {
 public:
  explicit ConfigReader(const Json& json) : json_(json) {}

  // Absent and null are the same: the family's default applies.
  bool has(const char* key) const;
  const Json& json() const { return json_; }

  size_t size(const char* key) const { return json_get_size(json_, key, kMaxConfigSize); }
  size_t size_or(const char* key, size_t fallback) const {
    return json_get_size_or(json_, key, fallback, kMaxConfigSize);
  }
  double number_or(const char* key, double fallback) const;
  std::optional<double> number(const char* key) const;
  bool flag_or(const char* key, bool fallback) const;
  std::string text_or(const char* key, const std::string& fallback) const;
  // Reads the first of `keys` that is present.
  Activation activation(std::initializer_list<const char*> keys, const char* fallback) const;

  // Refuses a key that would change the function in a way that is not supported.
  void expect_flag(const char* key, bool only) const;
  void expect_number(const char* key, double only) const;
  void expect_absent(const char* key, std::string_view why) const;

  // One id or a list of ids; ids outside the vocabulary are dropped with a warning.
  std::vector<int32_t> token_ids(const char* key, size_t vocab_size) const;

 private:
  const Json& json_;
};

// Base and scaling of rotary positions, from rope_parameters (transformers v5) or rope_theta and
// rope_scaling. `layer_type`: "full_attention" or "sliding_attention" where rope_parameters may
// hold one object per type, else empty.
BlockSpec read_rope(const ConfigReader& config, double default_base,
                    const std::string& layer_type = "");

}  // namespace fewbit
