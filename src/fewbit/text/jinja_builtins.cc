#include "fewbit/text/jinja_builtins.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <map>

#include "fewbit/base/error.h"
#include "fewbit/text/jinja_text.h"
#include "fewbit/text/unicode.h"

namespace fewbit::jinja {
namespace {

using Filter = Value (*)(const Value&, const Arguments&, const Registry&);
using Test = bool (*)(const Value&, const Arguments&);

size_t length_of(const Value& value) {
  if (value.is_dict()) return value.dict().items.size();
  if (value.is_list()) return value.list().size();
  if (value.is_undefined()) return 0;
  return characters(value.string()).size();
}

// "a.b.0": what map, selectattr and sort take as an attribute.
Value nested_attribute(Value value, const Value& path, const Registry& registry) {
  if (path.is_integer()) return item_of(value, path, registry);
  std::string_view rest = path.string();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = problem == std::errc() && end == part.data() + part.size();
    value = item_of(value, is_index ? Value(index) : Value(part), registry);
    if (dot == std::string_view::npos) return value;
    rest.remove_prefix(dot + 1);
  }
}

// Arguments from `first` on.
Arguments rest_of(const Arguments& arguments, size_t first) {
  Arguments rest = arguments;
  const size_t count = std::min(first, rest.positional.size());
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<long>(count));
  return rest;
}

Value join(const Value& value, const Arguments& arguments, const Registry& registry) {
  arguments.check("join", 0, 2, {"d", "attribute"});
  const std::string separator = arguments.get(0, "d", "").text();
  const Value attribute = arguments.get(1, "attribute", nullptr);
  std::string text;
  bool first = true;
  for (const Value& item : iterate(value)) {
    if (!first) text += separator;
    first = false;
    text += attribute.is_none() ? item.text() : nested_attribute(item, attribute, registry).text();
    registry.check_size(text.size());
  }
  return text;
}

Value to_json(const Value& value, const Arguments& arguments, const Registry& registry) {
  arguments.check("tojson", 0, 4, {"indent", "ensure_ascii", "separators", "sort_keys"});
  const Value indent = arguments.get(0, "indent", nullptr);
  constexpr int64_t kMaxIndent = 16;
  require(indent.is_none() || (indent.integer() >= 0 && indent.integer() <= kMaxIndent),
          "tojson: the indent is not allowed (allowed: 0 to {})", kMaxIndent);
  std::string text = value.json(indent.is_none() ? -1 : static_cast<int>(indent.integer()));
  registry.check_size(text.size());
  return text;
}

Value to_integer(const Value& value, const Arguments& arguments, const Registry&) {
  const Value fallback = arguments.get(0, "default", int64_t{0});
  if (value.is_float()) {
    constexpr double kLimit = 9.2e18;
    return std::abs(value.real()) < kLimit ? Value(static_cast<int64_t>(value.real())) : fallback;
  }
  if (value.is_number()) return value.integer();
  if (!value.is_string()) return fallback;
  const std::string text = stripped(value.string(), {}, true, true);
  int64_t number = 0;
  const char* start = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, problem] = std::from_chars(start, text.data() + text.size(), number);
  if (problem == std::errc() && end == text.data() + text.size()) return number;
  double real = 0;
  const auto [real_end, real_problem] = std::from_chars(start, text.data() + text.size(), real);
  const bool is_real = real_problem == std::errc() && real_end == text.data() + text.size();
  return is_real ? to_integer(real, arguments, {}) : fallback;
}

Value to_float(const Value& value, const Arguments& arguments, const Registry&) {
  const Value fallback = arguments.get(0, "default", 0.0);
  if (value.is_number()) return value.real();
  if (!value.is_string()) return fallback;
  const std::string text = stripped(value.string(), {}, true, true);
  double number = 0;
  const char* start = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, problem] = std::from_chars(start, text.data() + text.size(), number);
  const bool whole = problem == std::errc() && end == text.data() + text.size();
  return whole ? Value(number) : fallback;
}

Value round_value(const Value& value, const Arguments& arguments, const Registry&) {
  arguments.check("round", 0, 2, {"precision", "method"});
  const double scale = std::pow(10.0, arguments.get(0, "precision", int64_t{0}).real());
  const std::string method = arguments.get(1, "method", "common").string();
  const double scaled = value.real() * scale;
  if (method == "ceil") return std::ceil(scaled) / scale;
  if (method == "floor") return std::floor(scaled) / scale;
  require(method == "common", "round: method '{}' is not known", method);
  return std::nearbyint(scaled) / scale;
}

Value items_of(const Value& value, const Arguments&, const Registry&) {
  List items;
  if (value.is_undefined()) return items;
  for (const auto& [key, item] : value.dict().items) items.emplace_back(List{key, item});
  return items;
}

Value sorted_dict(const Value& value, const Arguments& arguments, const Registry& registry) {
  arguments.check("dictsort", 0, 3, {"case_sensitive", "by", "reverse"});
  const bool sensitive = arguments.get(0, "case_sensitive", false).truth();
  const size_t by = arguments.get(1, "by", "key").string() == "value" ? 1 : 0;
  List items = items_of(value, arguments, registry).list();
  const auto key = [&](const Value& item) {
    const Value& part = item.list()[by];
    return part.is_string() && !sensitive ? Value(lowercase(part.string())) : part;
  };
  std::stable_sort(items.begin(), items.end(),
                   [&](const Value& a, const Value& b) { return key(a) < key(b); });
  if (arguments.get(2, "reverse", false).truth()) std::reverse(items.begin(), items.end());
  return items;
}

Value sorted(const Value& value, const Arguments& arguments, const Registry& registry) {
  arguments.check("sort", 0, 3, {"reverse", "case_sensitive", "attribute"});
  const bool sensitive = arguments.get(1, "case_sensitive", false).truth();
  const Value attribute = arguments.get(2, "attribute", nullptr);
  List items = iterate(value);
  const auto key = [&](const Value& item) {
    const Value part = attribute.is_none() ? item : nested_attribute(item, attribute, registry);
    return part.is_string() && !sensitive ? Value(lowercase(part.string())) : part;
  };
  const bool reverse = arguments.get(0, "reverse", false).truth();
  std::stable_sort(items.begin(), items.end(), [&](const Value& a, const Value& b) {
    return reverse ? key(b) < key(a) : key(a) < key(b);
  });
  return items;
}

Value unique(const Value& value, const Arguments& arguments, const Registry& registry) {
  arguments.check("unique", 0, 2, {"case_sensitive", "attribute"});
  const bool sensitive = arguments.get(0, "case_sensitive", false).truth();
  const Value attribute = arguments.get(1, "attribute", nullptr);
  List seen, kept;
  for (const Value& item : iterate(value)) {
    Value key = attribute.is_none() ? item : nested_attribute(item, attribute, registry);
    if (key.is_string() && !sensitive) key = lowercase(key.string());
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(key);
    kept.push_back(item);
  }
  return kept;
}

Value mapped(const Value& value, const Arguments& arguments, const Registry& registry) {
  List result;
  const Value attribute =
      arguments.positional.empty() ? arguments.get(0, "attribute", nullptr) : Value(nullptr);
  if (!attribute.is_none()) {
    const Value fallback = arguments.get(1, "default", Value());
    for (const Value& item : iterate(value)) {
      Value part = nested_attribute(item, attribute, registry);
      result.push_back(part.is_undefined() && !fallback.is_undefined() ? fallback : part);
    }
    return result;
  }
  require(!arguments.positional.empty(), "map needs a filter or attribute=");
  const Arguments rest = rest_of(arguments, 1);
  for (const Value& item : iterate(value)) {
    result.push_back(registry.filter(arguments.positional[0].string(), item, rest));
  }
  return result;
}

// select, reject; with an attribute in front of the test: selectattr, rejectattr.
template <bool kByAttribute, bool kKeep>
Value selected(const Value& value, const Arguments& arguments, const Registry& registry) {
  constexpr size_t kTest = kByAttribute ? 1 : 0;
  require(!kByAttribute || !arguments.positional.empty(), "selectattr needs an attribute");
  List result;
  const Arguments rest = rest_of(arguments, kTest + 1);
  for (const Value& item : iterate(value)) {
    const Value part =
        kByAttribute ? nested_attribute(item, arguments.positional[0], registry) : item;
    const bool holds = arguments.positional.size() > kTest
                           ? registry.test(arguments.positional[kTest].string(), part, rest)
                           : part.truth();
    if (holds == kKeep) result.push_back(item);
  }
  return result;
}

Value defaulted(const Value& value, const Arguments& arguments, const Registry&) {
  arguments.check("default", 0, 2, {"default_value", "boolean"});
  const bool by_truth = arguments.get(1, "boolean", false).truth();
  const bool missing = by_truth ? !value.truth() : value.is_undefined();
  return missing ? arguments.get(0, "default_value", "") : value;
}

Value indented(const Value& value, const Arguments& arguments, const Registry& registry) {
  arguments.check("indent", 0, 3, {"width", "first", "blank"});
  const Value width = arguments.get(0, "width", int64_t{4});
  constexpr int64_t kMaxWidth = 1000;
  require(width.is_string() || (width.integer() >= 0 && width.integer() <= kMaxWidth),
          "indent: the width is not allowed (allowed: 0 to {})", kMaxWidth);
  const std::string space =
      width.is_string() ? width.string() : std::string(static_cast<size_t>(width.integer()), ' ');
  std::string text = indented_lines(value.text(), space, arguments.get(1, "first", false).truth(),
                                    arguments.get(2, "blank", false).truth(), registry.check_size);
  return text;
}

Value reversed(const Value& value, const Arguments&, const Registry&) {
  List items = iterate(value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return items;
  std::string text;
  for (const Value& item : items) text += item.string();
  return text;
}

Value absolute(const Value& value, const Arguments&, const Registry&) {
  if (value.is_float()) return std::abs(value.real());
  return value.integer() < 0 ? Value(-value.integer()) : Value(value.integer());
}

Value first_of(const Value& value, const Arguments&, const Registry&) {
  const List items = iterate(value);
  return items.empty() ? Value::undefined("the first of nothing") : items.front();
}
Value last_of(const Value& value, const Arguments&, const Registry&) {
  const List items = iterate(value);
  return items.empty() ? Value::undefined("the last of nothing") : items.back();
}

// A method of strings as a filter.
template <const char* kName>
Value by_method(const Value& value, const Arguments& arguments, const Registry& registry) {
  const Value text = value.is_string() ? value : Value(value.text());
  return find_method(text, kName, registry)->function()(arguments);
}
constexpr char kStrip[] = "strip", kLower[] = "lower", kUpper[] = "upper",
               kCapitalize[] = "capitalize", kTitle[] = "title", kReplace[] = "replace";

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> table = {
      {"abs", absolute},
      {"capitalize", by_method<kCapitalize>},
      {"count",
       [](const Value& v, const Arguments&, const Registry&) { return Value(length_of(v)); }},
      {"d", defaulted},
      {"default", defaulted},
      {"dictsort", sorted_dict},
      {"e",
       [](const Value& v, const Arguments&, const Registry&) { return Value(escaped(v.text())); }},
      {"escape",
       [](const Value& v, const Arguments&, const Registry&) { return Value(escaped(v.text())); }},
      {"first", first_of},
      {"float", to_float},
      {"indent", indented},
      {"int", to_integer},
      {"items", items_of},
      {"join", join},
      {"last", last_of},
      {"length",
       [](const Value& v, const Arguments&, const Registry&) { return Value(length_of(v)); }},
      {"list", [](const Value& v, const Arguments&, const Registry&) { return Value(iterate(v)); }},
      {"lower", by_method<kLower>},
      {"map", mapped},
      {"reject", selected<false, false>},
      {"rejectattr", selected<true, false>},
      {"replace", by_method<kReplace>},
      {"reverse", reversed},
      {"round", round_value},
      {"safe", [](const Value& v, const Arguments&, const Registry&) { return Value(v.text()); }},
      {"select", selected<false, true>},
      {"selectattr", selected<true, true>},
      {"sort", sorted},
      {"string", [](const Value& v, const Arguments&, const Registry&) { return Value(v.text()); }},
      {"title", by_method<kTitle>},
      {"tojson", to_json},
      {"trim", by_method<kStrip>},
      {"unique", unique},
      {"upper", by_method<kUpper>},
  };
  return table;
}

Value operand(const Arguments& arguments) {
  require(arguments.positional.size() == 1, "the test takes one argument");
  return arguments.positional[0];
}
bool is_whole(const Value& v) { return v.is_integer(); }

const std::map<std::string_view, Test>& tests() {
  static const std::map<std::string_view, Test> table = {
      {"boolean", [](const Value& v, const Arguments&) { return v.is_bool(); }},
      {"callable", [](const Value& v, const Arguments&) { return v.is_function(); }},
      {"defined", [](const Value& v, const Arguments&) { return !v.is_undefined(); }},
      {"divisibleby",
       [](const Value& v, const Arguments& a) {
         const int64_t divisor = operand(a).integer();
         require(divisor != 0, "a division by zero");
         return divisor == -1 || v.integer() % divisor == 0;
       }},
      {"eq", [](const Value& v, const Arguments& a) { return v == operand(a); }},
      {"==", [](const Value& v, const Arguments& a) { return v == operand(a); }},
      {"equalto", [](const Value& v, const Arguments& a) { return v == operand(a); }},
      {"even", [](const Value& v, const Arguments&) { return v.integer() % 2 == 0; }},
      {"false", [](const Value& v, const Arguments&) { return v.is_bool() && !v.truth(); }},
      {"float", [](const Value& v, const Arguments&) { return v.is_float(); }},
      {"ge", [](const Value& v, const Arguments& a) { return !(v < operand(a)); }},
      {">=", [](const Value& v, const Arguments& a) { return !(v < operand(a)); }},
      {"gt", [](const Value& v, const Arguments& a) { return operand(a) < v; }},
      {">", [](const Value& v, const Arguments& a) { return operand(a) < v; }},
      {"greaterthan", [](const Value& v, const Arguments& a) { return operand(a) < v; }},
      {"in", [](const Value& v, const Arguments& a) { return contains(operand(a), v); }},
      {"integer", [](const Value& v, const Arguments&) { return is_whole(v); }},
      {"iterable",
       [](const Value& v, const Arguments&) {
         return v.is_list() || v.is_dict() || v.is_string() || v.is_undefined();
       }},
      {"le", [](const Value& v, const Arguments& a) { return !(operand(a) < v); }},
      {"<=", [](const Value& v, const Arguments& a) { return !(operand(a) < v); }},
      {"lessthan", [](const Value& v, const Arguments& a) { return v < operand(a); }},
      {"lower", [](const Value& v, const Arguments&) { return lowercase(v.text()) == v.text(); }},
      {"lt", [](const Value& v, const Arguments& a) { return v < operand(a); }},
      {"<", [](const Value& v, const Arguments& a) { return v < operand(a); }},
      {"mapping", [](const Value& v, const Arguments&) { return v.is_dict(); }},
      {"ne", [](const Value& v, const Arguments& a) { return !(v == operand(a)); }},
      {"!=", [](const Value& v, const Arguments& a) { return !(v == operand(a)); }},
      {"none", [](const Value& v, const Arguments&) { return v.is_none(); }},
      {"number", [](const Value& v, const Arguments&) { return v.is_number(); }},
      {"odd", [](const Value& v, const Arguments&) { return v.integer() % 2 != 0; }},
      {"sequence",
       [](const Value& v, const Arguments&) {
         return v.is_list() || v.is_dict() || v.is_string() || v.is_undefined();
       }},
      {"string", [](const Value& v, const Arguments&) { return v.is_string(); }},
      {"true", [](const Value& v, const Arguments&) { return v.is_bool() && v.truth(); }},
      {"undefined", [](const Value& v, const Arguments&) { return v.is_undefined(); }},
      {"upper", [](const Value& v, const Arguments&) { return uppercase(v.text()) == v.text(); }},
  };
  return table;
}

Value range(const Arguments& arguments) {
  arguments.check("range", 1, 3);
  const auto at = [&](size_t i) { return arguments.positional[i].integer(); };
  const bool single = arguments.positional.size() == 1;
  const int64_t start = single ? 0 : at(0), stop = single ? at(0) : at(1);
  const int64_t step = arguments.positional.size() == 3 ? at(2) : 1;
  require(step != 0, "range: the step is 0");
  constexpr size_t kMaxRange = 200'000;
  List list;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    require(list.size() < kMaxRange, "range: more than {} numbers", kMaxRange);
    list.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return list;
}

Value make_namespace(const Arguments& arguments) {
  Dict dict;
  for (const Value& given : arguments.positional) dict.items = given.dict().items;
  for (const auto& [name, value] : arguments.named) dict.set(name, value);
  dict.is_namespace = true;
  return dict;
}
Value make_dict(const Arguments& arguments) {
  Dict dict;
  for (const Value& given : arguments.positional) dict.items = given.dict().items;
  for (const auto& [name, value] : arguments.named) dict.set(name, value);
  return dict;
}

Value raise(const Arguments& arguments) {
  throw Raised{arguments.get(0, "message", "the template raised an exception").text()};
}

Value time_now(const Arguments& arguments) {
  const std::string format = arguments.get(0, "format", "%Y-%m-%d").string();
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  constexpr size_t kMaxBytes = 1024;
  char text[kMaxBytes];
  return std::string(text, std::strftime(text, kMaxBytes, format.c_str(), &local));
}

// Index of an element, counted from the end if negative; nothing if out of range.
std::optional<size_t> element_index(int64_t index, size_t count) {
  if (index < 0) index += static_cast<int64_t>(count);
  if (index < 0 || static_cast<size_t>(index) >= count) return std::nullopt;
  return static_cast<size_t>(index);
}

}  // namespace

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments,
                   const Registry& registry) {
  const auto found = filters().find(name);
  require(found != filters().end(), "the filter '{}' is not known", name);
  return found->second(value, arguments, registry);
}

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments) {
  const auto found = tests().find(name);
  require(found != tests().end(), "the test '{}' is not known", name);
  return found->second(value, arguments);
}

std::optional<Value> find_function(std::string_view name) {
  static const std::map<std::string_view, Value (*)(const Arguments&)> table = {
      {"dict", make_dict}, {"namespace", make_namespace}, {"raise_exception", raise},
      {"range", range},    {"strftime_now", time_now},
  };
  const auto found = table.find(name);
  if (found == table.end()) return std::nullopt;
  return Value(Function(found->second));
}

List iterate(const Value& value) {
  if (value.is_undefined()) return {};
  if (value.is_list()) return value.list();
  List items;
  if (value.is_dict()) {
    for (const auto& [key, item] : value.dict().items) items.push_back(key);
    return items;
  }
  for (std::string& character : characters(value.string()))
    items.emplace_back(std::move(character));
  return items;
}

Value attribute_of(const Value& value, std::string_view name, const Registry& registry) {
  if (value.is_undefined()) value.string();  // Says which name is undefined.
  if (value.is_dict() && value.dict().is_namespace) {
    const Value* found = value.dict().find(name);
    return found != nullptr ? *found : Value::undefined(std::string(name));
  }
  if (std::optional<Value> method = find_method(value, name, registry)) return *method;
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(name)) return *found;
  }
  return Value::undefined(std::string(name));
}

Value item_of(const Value& value, const Value& key, const Registry& registry) {
  if (value.is_undefined()) value.string();
  if (value.is_dict()) {
    if (const Value* found = value.dict().find(key)) return *found;
  } else if (value.is_list() && key.is_integer()) {
    const auto index = element_index(key.integer(), value.list().size());
    if (index) return value.list()[*index];
  } else if (value.is_string() && key.is_integer()) {
    const std::vector<std::string> parts = characters(value.string());
    if (const auto index = element_index(key.integer(), parts.size())) return parts[*index];
  }
  if (key.is_string()) {
    if (std::optional<Value> method = find_method(value, key.string(), registry)) return *method;
  }
  return Value::undefined(key.text());
}

Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step) {
  const List items = iterate(value);
  const auto count = static_cast<int64_t>(items.size());
  const int64_t stride = step.is_none() ? 1 : step.integer();
  require(stride != 0, "a slice's step is 0");
  // Python's rules: ends are counted from the end if negative, then kept within the list.
  const auto end_of = [&](const Value& end, int64_t fallback) {
    if (end.is_none()) return fallback;
    const int64_t at = end.integer() < 0 ? end.integer() + count : end.integer();
    return stride > 0 ? std::clamp<int64_t>(at, 0, count) : std::clamp<int64_t>(at, -1, count - 1);
  };
  const int64_t first = end_of(start, stride > 0 ? 0 : count - 1);
  const int64_t last = end_of(stop, stride > 0 ? count : -1);
  List kept;
  for (int64_t i = first; stride > 0 ? i < last : i > last;) {
    kept.push_back(items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (!value.is_string()) return kept;
  std::string text;
  for (const Value& item : kept) text += item.string();
  return text;
}

bool contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    return container.string().find(item.string()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(item) != nullptr;
  if (container.is_undefined()) return false;
  const List& list = container.list();
  return std::find(list.begin(), list.end(), item) != list.end();
}

}  // namespace fewbit::jinja
