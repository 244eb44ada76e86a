// Filters, tests, methods and functions that every template may use.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string_view>

#include "fewbit/text/jinja_value.h"

namespace fewbit::jinja {

// How filters that apply another filter or test by name do so.
struct Registry {
  std::function<Value(std::string_view name, const Value&, const Arguments&)> filter;
  std::function<bool(std::string_view name, const Value&, const Arguments&)> test;
  // Throws if a text of that many bytes is more than the template may make.
  std::function<void(size_t bytes)> check_size;
};

// Errors if the name is not known.
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments,
                   const Registry& registry);
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments);
// The method of a string, list or dictionary; empty if it has none of that name.
std::optional<Value> find_method(const Value& object, std::string_view name,
                                 const Registry& registry);
// range, namespace, dict, raise_exception, strftime_now; empty if there is none of that name.
std::optional<Value> find_function(std::string_view name);

// What raise_exception throws.
struct Raised {
  std::string message;
};

// Elements of a list, keys of a dictionary, characters of a text; none of an undefined value.
List iterate(const Value& value);
// value.name or value["name"], as `find_method` and dictionaries have it; undefined if neither.
Value attribute_of(const Value& value, std::string_view name, const Registry& registry);
Value item_of(const Value& value, const Value& key, const Registry& registry);
Value slice_of(const Value& value, const Value& start, const Value& stop, const Value& step);
bool contains(const Value& container, const Value& item);

}  // namespace fewbit::jinja
