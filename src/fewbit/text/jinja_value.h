// Values of the template language (jinja.h), with the meaning that Python gives them.
//
// Lists, dictionaries and functions are shared: a copy of a Value is the same object, as in Python.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fewbit::jinja {

// Keys stay in the order in which they were put in: templates print them.
using OrderedJson = nlohmann::ordered_json;

class Value;
using List = std::vector<Value>;

struct Dict {
  std::vector<std::pair<Value, Value>> items;
  bool is_namespace = false;  // Its attributes may be set.

  Value* find(const Value& key);
  void set(const Value& key, Value value);
};

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `index` or of that name; `fallback` if it is not given.
  Value get(size_t index, std::string_view name, const Value& fallback) const;
  // Error if more than `most` are given, or a named one that is not among `names`.
  void check(std::string_view what, size_t least, size_t most,
             std::initializer_list<std::string_view> names = {}) const;
};
using Function = std::function<Value(const Arguments&)>;

// A name or key that does not exist; says which.
struct Undefined {
  std::string name;
};

class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(std::nullptr_t) : data_(nullptr) {}
  Value(bool value) : data_(value) {}
  Value(int value) : data_(int64_t{value}) {}
  Value(int64_t value) : data_(value) {}
  Value(size_t value) : data_(static_cast<int64_t>(value)) {}
  Value(double value) : data_(value) {}
  Value(std::string value) : data_(std::move(value)) {}
  Value(std::string_view value) : data_(std::string(value)) {}
  Value(const char* value) : data_(std::string(value)) {}
  Value(List value);
  Value(Dict value);
  Value(Function value) : data_(std::make_shared<Function>(std::move(value))) {}
  static Value undefined(std::string name) {
    Value value;
    value.data_ = Undefined{std::move(name)};
    return value;
  }
  static Value from_json(const OrderedJson& json);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<std::nullptr_t>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_integer() || is_float() || is_bool(); }
  bool is_string() const { return std::holds_alternative<std::string>(data_); }
  bool is_list() const { return std::holds_alternative<std::shared_ptr<List>>(data_); }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<Dict>>(data_); }
  bool is_function() const { return std::holds_alternative<std::shared_ptr<Function>>(data_); }

  // Errors unless the value is of that kind.
  const std::string& string() const;
  List& list() const;
  Dict& dict() const;
  const Function& function() const;
  // An integer or a bool.
  int64_t integer() const;
  // Any number.
  double real() const;

  bool truth() const;
  // What Python calls the type: "str", "int", ...
  std::string_view type_name() const;
  // As Python prints it: True, None, ['a', 1.0]; undefined prints nothing.
  std::string text() const;
  // As Python's repr: strings in quotes.
  std::string representation() const;
  // As json.dumps(ensure_ascii=False); `indent` < 0: one line with ", " and ": ".
  std::string json(int indent) const;

  friend bool operator==(const Value& a, const Value& b) { return equal(a, b, 0); }
  // Order of numbers, strings and lists; Error for others.
  friend bool operator<(const Value& a, const Value& b) { return less(a, b, 0); }

 private:
  static Value from_json(const OrderedJson& json, int depth);
  static bool equal(const Value& a, const Value& b, int depth);
  static bool less(const Value& a, const Value& b, int depth);
  void write_representation(std::string& out, int depth) const;
  void write_json(std::string& out, int indent, int depth) const;
  [[noreturn]] void fail_kind(const char* wanted) const;

  std::variant<Undefined, std::nullptr_t, bool, int64_t, double, std::string, std::shared_ptr<List>,
               std::shared_ptr<Dict>, std::shared_ptr<Function>>
      data_;
};

// Deeper values (a list that holds itself), or longer texts of one, are an Error wherever a value
// is walked.
inline constexpr int kMaxValueDepth = 100;
inline constexpr size_t kMaxValueText = size_t{1} << 26;

// While one lives, it owns the lists and dictionaries that its thread makes, and takes them apart
// at its end: a template may have tied them to rings or chains of any length.
class Heap {
 public:
  Heap();
  ~Heap();
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

 private:
  friend class Value;
  Heap* outer_;
  std::vector<std::shared_ptr<List>> lists_;
  std::vector<std::shared_ptr<Dict>> dicts_;
};

// The code points of a text, each as a text: what indices, slices and loops over strings count.
std::vector<std::string> characters(std::string_view text);

}  // namespace fewbit::jinja
