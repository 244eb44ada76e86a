// Options with documentation: a method, a format or a pass declares what it takes once, and the
// parser, the error messages, `fewbit methods` and the docs are all made from that declaration.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

struct OptionSpec {
  enum class Type { integer, real, boolean, choice, text };

  std::string name;
  Type type = Type::text;
  std::string default_value;  // As the user would write it.
  std::string help;
  // integer and real: the closed range of allowed values.
  double min = 0, max = 0;
  // choice: the allowed words.
  std::vector<std::string> choices = {};

  static OptionSpec make_integer(std::string name, int64_t value, int64_t min, int64_t max,
                                 std::string help);
  static OptionSpec make_real(std::string name, double value, double min, double max,
                              std::string help);
  static OptionSpec make_boolean(std::string name, bool value, std::string help);
  static OptionSpec make_choice(std::string name, std::string value,
                                std::vector<std::string> choices, std::string help);
  static OptionSpec make_text(std::string name, std::string value, std::string help);

  // "1 to 8", "true or false", "none, static or dynamic": for messages and docs.
  std::string allowed() const;
};

// Values checked against their specs; every declared option has one.
class OptionValues {
 public:
  OptionValues() = default;
  // `given`: option name -> text. Unknown names, unreadable or out-of-range values are Errors that
  // name the key and what is allowed.
  OptionValues(std::span<const OptionSpec> specs, const std::map<std::string, std::string>& given);

  int64_t integer(std::string_view name) const;
  double real(std::string_view name) const;
  bool boolean(std::string_view name) const;
  const std::string& text(std::string_view name) const;  // choice and text
  // True if the user gave the option.
  bool given(std::string_view name) const;
  // Canonical "key=value,..." of what the user gave, in declaration order.
  std::string given_text() const;

 private:
  struct Entry {
    OptionSpec::Type type;
    std::string text;
    bool given;
  };
  const Entry& entry(std::string_view name, OptionSpec::Type type) const;

  std::vector<std::string> order_;
  std::map<std::string, Entry, std::less<>> entries_;
};

// "a, b or c".
std::string join_choices(std::span<const std::string> words);

}  // namespace fewbit
