#include "fewbit/base/options.h"

#include <charconv>
#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_valid(const OptionSpec& spec, const std::string& text) {
  switch (spec.type) {
    case OptionSpec::Type::integer: {
      const auto value = parse_number<int64_t>(text);
      return value && static_cast<double>(*value) >= spec.min &&
             static_cast<double>(*value) <= spec.max;
    }
    case OptionSpec::Type::real: {
      const auto value = parse_number<double>(text);
      return value && std::isfinite(*value) && *value >= spec.min && *value <= spec.max;
    }
    case OptionSpec::Type::boolean:
      return text == "true" || text == "false";
    case OptionSpec::Type::choice:
      for (const std::string& choice : spec.choices) {
        if (choice == text) return true;
      }
      return false;
    case OptionSpec::Type::text:
      return true;
  }
  return false;
}

}  // namespace

std::string join_choices(std::span<const std::string> words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

OptionSpec OptionSpec::make_integer(std::string name, int64_t value, int64_t min, int64_t max,
                                    std::string help) {
  return {.name = std::move(name),
          .type = Type::integer,
          .default_value = std::to_string(value),
          .help = std::move(help),
          .min = static_cast<double>(min),
          .max = static_cast<double>(max)};
}

OptionSpec OptionSpec::make_real(std::string name, double value, double min, double max,
                                 std::string help) {
  return {.name = std::move(name),
          .type = Type::real,
          .default_value = fmt::format("{}", value),
          .help = std::move(help),
          .min = min,
          .max = max};
}

OptionSpec OptionSpec::make_boolean(std::string name, bool value, std::string help) {
  return {.name = std::move(name),
          .type = Type::boolean,
          .default_value = value ? "true" : "false",
          .help = std::move(help)};
}

OptionSpec OptionSpec::make_choice(std::string name, std::string value,
                                   std::vector<std::string> choices, std::string help) {
  return {.name = std::move(name),
          .type = Type::choice,
          .default_value = std::move(value),
          .help = std::move(help),
          .choices = std::move(choices)};
}

OptionSpec OptionSpec::make_text(std::string name, std::string value, std::string help) {
  return {.name = std::move(name),
          .type = Type::text,
          .default_value = std::move(value),
          .help = std::move(help)};
}

std::string OptionSpec::allowed() const {
  switch (type) {
    case Type::integer:
    case Type::real:
      return fmt::format("{} to {}", min, max);
    case Type::boolean:
      return "true or false";
    case Type::choice:
      return join_choices(choices);
    case Type::text:
      return "any text";
  }
  return {};
}

OptionValues::OptionValues(std::span<const OptionSpec> specs,
                           const std::map<std::string, std::string>& given) {
  for (const OptionSpec& spec : specs) {
    order_.push_back(spec.name);
    entries_[spec.name] = {spec.type, spec.default_value, false};
  }
  for (const auto& [name, text] : given) {
    const auto found = entries_.find(name);
    require(found != entries_.end(), "unknown option '{}'; known: {}", name, join_choices(order_));
    for (const OptionSpec& spec : specs) {
      if (spec.name != name) continue;
      require(is_valid(spec, text), "option '{}': '{}' is not allowed; allowed: {}", name, text,
              spec.allowed());
    }
    found->second.text = text;
    found->second.given = true;
  }
}

const OptionValues::Entry& OptionValues::entry(std::string_view name, OptionSpec::Type type) const {
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second.type != type) {
    throw std::logic_error(fmt::format("option '{}' was not declared with this type", name));
  }
  return found->second;
}

int64_t OptionValues::integer(std::string_view name) const {
  return *parse_number<int64_t>(entry(name, OptionSpec::Type::integer).text);
}

double OptionValues::real(std::string_view name) const {
  return *parse_number<double>(entry(name, OptionSpec::Type::real).text);
}

bool OptionValues::boolean(std::string_view name) const {
  return entry(name, OptionSpec::Type::boolean).text == "true";
}

const std::string& OptionValues::text(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw std::logic_error(fmt::format("option '{}' was not declared", name));
  }
  return found->second.text;
}

bool OptionValues::given(std::string_view name) const {
  const auto found = entries_.find(name);
  return found != entries_.end() && found->second.given;
}

std::string OptionValues::given_text() const {
  std::string text;
  for (const std::string& name : order_) {
    const Entry& entry = entries_.find(name)->second;
    if (entry.given) text += fmt::format("{}{}={}", text.empty() ? "" : ",", name, entry.text);
  }
  return text;
}

}  // namespace fewbit
