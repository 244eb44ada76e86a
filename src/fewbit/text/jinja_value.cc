#include "fewbit/text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/text/unicode.h"

namespace fewbit::jinja {
namespace {

// repr of a double in Python: the shortest digits that read back equal, and a mark of being one.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// Python's choice of quotes: double ones only for a text that holds single ones and no double ones.
std::string in_quotes(std::string_view text) {
  const char quote =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"'
                                                                                            : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    switch (c) {
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\\':
        out += "\\\\";
        break;
      default:
        if (c == quote) out += '\\';
        if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') {
          out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + quote;
}

thread_local Heap* current_heap = nullptr;

void check_depth(int depth) {
  require(depth < kMaxValueDepth, "a value is nested more than {} deep", kMaxValueDepth);
}
void check_walk(int depth, const std::string& out) {
  check_depth(depth);
  require(out.size() <= kMaxValueText, "the text of a value has more than {} bytes", kMaxValueText);
}

}  // namespace

Heap::Heap() : outer_(current_heap) { current_heap = this; }
Heap::~Heap() {
  current_heap = outer_;
  // Nothing is destroyed while it still holds something: no chain, however long, is followed.
  List graveyard;
  const auto bury = [&](Value& value) { graveyard.push_back(std::move(value)); };
  for (const auto& list : lists_) {
    for (Value& item : *list) bury(item);
    list->clear();
  }
  for (const auto& dict : dicts_) {
    for (auto& [key, value] : dict->items) {
      bury(key);
      bury(value);
    }
    dict->items.clear();
  }
}

Value::Value(List value) {
  auto list = std::make_shared<List>(std::move(value));
  if (current_heap != nullptr) current_heap->lists_.push_back(list);
  data_ = std::move(list);
}
Value::Value(Dict value) {
  auto dict = std::make_shared<Dict>(std::move(value));
  if (current_heap != nullptr) current_heap->dicts_.push_back(dict);
  data_ = std::move(dict);
}

Value* Dict::find(const Value& key) {
  for (auto& [have, value] : items) {
    if (have == key) return &value;
  }
  return nullptr;
}

void Dict::set(const Value& key, Value value) {
  if (Value* found = find(key)) {
    *found = std::move(value);
  } else {
    items.emplace_back(key, std::move(value));
  }
}

Value Arguments::get(size_t index, std::string_view name, const Value& fallback) const {
  if (index < positional.size()) return positional[index];
  for (const auto& [have, value] : named) {
    if (have == name) return value;
  }
  return fallback;
}

void Arguments::check(std::string_view what, size_t least, size_t most,
                      std::initializer_list<std::string_view> names) const {
  for (const auto& [name, value] : named) {
    require(std::find(names.begin(), names.end(), name) != names.end(), "{} takes no argument '{}'",
            what, name);
  }
  const size_t count = positional.size() + named.size();
  require(count >= least && count <= most, "{} takes {} to {} arguments, not {}", what, least, most,
          count);
}

Value Value::from_json(const OrderedJson& json) { return from_json(json, 0); }

Value Value::from_json(const OrderedJson& json, int depth) {
  check_depth(depth);
  switch (json.type()) {
    case OrderedJson::value_t::object: {
      Dict dict;
      for (const auto& [key, value] : json.items())
        dict.items.emplace_back(key, from_json(value, depth + 1));
      return dict;
    }
    case OrderedJson::value_t::array: {
      List list;
      for (const auto& value : json) list.push_back(from_json(value, depth + 1));
      return list;
    }
    case OrderedJson::value_t::string:
      return json.get<std::string>();
    case OrderedJson::value_t::boolean:
      return json.get<bool>();
    case OrderedJson::value_t::number_integer:
    case OrderedJson::value_t::number_unsigned:
      return json.get<int64_t>();
    case OrderedJson::value_t::number_float:
      return json.get<double>();
    default:
      return nullptr;
  }
}

void Value::fail_kind(const char* wanted) const {
  if (const auto* undefined = std::get_if<Undefined>(&data_)) {
    fail("'{}' is undefined", undefined->name);
  }
  fail("expected {}, not {} of type {}", wanted, representation().substr(0, 80), type_name());
}

const std::string& Value::string() const {
  if (!is_string()) fail_kind("a string");
  return std::get<std::string>(data_);
}
List& Value::list() const {
  if (!is_list()) fail_kind("a list");
  return *std::get<std::shared_ptr<List>>(data_);
}
Dict& Value::dict() const {
  if (!is_dict()) fail_kind("a dictionary");
  return *std::get<std::shared_ptr<Dict>>(data_);
}
const Function& Value::function() const {
  if (!is_function()) fail_kind("a function");
  return *std::get<std::shared_ptr<Function>>(data_);
}
int64_t Value::integer() const {
  if (is_bool()) return std::get<bool>(data_) ? 1 : 0;
  if (!is_integer()) fail_kind("an integer");
  return std::get<int64_t>(data_);
}
double Value::real() const {
  if (is_float()) return std::get<double>(data_);
  if (!is_number()) fail_kind("a number");
  return static_cast<double>(integer());
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return real() != 0;
  if (is_string()) return !string().empty();
  if (is_list()) return !list().empty();
  if (is_dict()) return dict().is_namespace || !dict().items.empty();
  return true;
}

std::string_view Value::type_name() const {
  constexpr std::string_view kNames[] = {"Undefined", "NoneType", "bool", "int",     "float",
                                         "str",       "list",     "dict", "function"};
  return kNames[data_.index()];
}

std::string Value::text() const {
  if (is_undefined()) return {};
  if (is_string()) return string();
  return representation();
}

std::string Value::representation() const {
  std::string out;
  write_representation(out, 0);
  return out;
}

void Value::write_representation(std::string& out, int depth) const {
  check_walk(depth, out);
  if (is_undefined()) {
    out += "Undefined";
  } else if (is_none()) {
    out += "None";
  } else if (is_bool()) {
    out += truth() ? "True" : "False";
  } else if (is_integer()) {
    out += std::to_string(integer());
  } else if (is_float()) {
    out += float_text(real());
  } else if (is_string()) {
    out += in_quotes(string());
  } else if (is_list()) {
    out += '[';
    const char* separator = "";
    for (const Value& item : list()) {
      out += separator;
      item.write_representation(out, depth + 1);
      separator = ", ";
    }
    out += ']';
  } else if (is_dict()) {
    out += '{';
    const char* separator = "";
    for (const auto& [key, value] : dict().items) {
      out += separator;
      key.write_representation(out, depth + 1);
      out += ": ";
      value.write_representation(out, depth + 1);
      separator = ", ";
    }
    out += '}';
  } else {
    out += "<function>";
  }
}

std::string Value::json(int indent) const {
  std::string out;
  write_json(out, indent, 0);
  return out;
}

void Value::write_json(std::string& out, int indent, int depth) const {
  check_walk(depth, out);
  const auto line = [&](int level) {
    if (indent >= 0) out += "\n" + std::string(static_cast<size_t>(indent * level), ' ');
  };
  const char* comma = indent >= 0 ? "," : ", ";
  if (is_none()) {
    out += "null";
  } else if (is_bool()) {
    out += truth() ? "true" : "false";
  } else if (is_integer()) {
    out += std::to_string(integer());
  } else if (is_float()) {
    const std::string text = float_text(real());
    out += text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text;
  } else if (is_string()) {
    out += OrderedJson(string()).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  } else if (is_list()) {
    out += '[';
    const char* separator = "";
    for (const Value& item : list()) {
      out += separator;
      line(depth + 1);
      item.write_json(out, indent, depth + 1);
      separator = comma;
    }
    if (!list().empty()) line(depth);
    out += ']';
  } else if (is_dict()) {
    out += '{';
    const char* separator = "";
    for (const auto& [key, value] : dict().items) {
      out += separator;
      line(depth + 1);
      if (key.is_string()) {
        key.write_json(out, indent, depth + 1);
      } else {
        Value(key.json(-1)).write_json(out, indent, depth + 1);
      }
      out += ": ";
      value.write_json(out, indent, depth + 1);
      separator = comma;
    }
    if (!dict().items.empty()) line(depth);
    out += '}';
  } else {
    fail_kind("a value that JSON can hold");
  }
}

bool Value::equal(const Value& a, const Value& b, int depth) {
  check_depth(depth);
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.real() == b.real();
    return a.integer() == b.integer();
  }
  if (a.data_.index() != b.data_.index()) return false;
  if (a.is_string()) return a.string() == b.string();
  if (a.is_list()) {
    return &a.list() == &b.list() ||
           std::equal(a.list().begin(), a.list().end(), b.list().begin(), b.list().end(),
                      [&](const Value& x, const Value& y) { return equal(x, y, depth + 1); });
  }
  if (a.is_dict()) {
    if (&a.dict() == &b.dict()) return true;
    if (a.dict().items.size() != b.dict().items.size()) return false;
    for (const auto& [key, value] : a.dict().items) {
      const Value* other = b.dict().find(key);
      if (other == nullptr || !equal(*other, value, depth + 1)) return false;
    }
    return true;
  }
  if (a.is_function()) return &a.function() == &b.function();
  return true;  // None, or undefined.
}

bool Value::less(const Value& a, const Value& b, int depth) {
  check_depth(depth);
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.real() < b.real();
    return a.integer() < b.integer();
  }
  if (a.is_string() && b.is_string()) return a.string() < b.string();
  if (a.is_list() && b.is_list()) {
    return std::lexicographical_compare(
        a.list().begin(), a.list().end(), b.list().begin(), b.list().end(),
        [&](const Value& x, const Value& y) { return less(x, y, depth + 1); });
  }
  if (a.is_undefined()) a.fail_kind("a value that can be ordered");
  if (b.is_undefined()) b.fail_kind("a value that can be ordered");
  fail("values of type {} and {} have no order", a.type_name(), b.type_name());
}

std::vector<std::string> characters(std::string_view text) {
  std::vector<std::string> result;
  for (size_t at = 0; at < text.size();) {
    const size_t length = decode_utf8(text, at).length;
    result.emplace_back(text.substr(at, length));
    at += length;
  }
  return result;
}

}  // namespace fewbit::jinja
