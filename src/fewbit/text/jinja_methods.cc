#include <algorithm>
#include <map>

#include "fewbit/base/error.h"
#include "fewbit/text/jinja_builtins.h"
#include "fewbit/text/jinja_text.h"
#include "fewbit/text/unicode.h"

namespace fewbit::jinja {
namespace {

// A method: its object, its arguments, and how much text may be made.
using Method = Value (*)(const Value&, const Arguments&, const Registry&);

std::optional<std::string> text_or_none(const Value& value) {
  if (value.is_none()) return std::nullopt;
  return value.string();
}

template <bool kLeft, bool kRight>
Value strip(const Value& self, const Arguments& arguments, const Registry&) {
  arguments.check("strip", 0, 1, {"chars"});
  const std::optional<std::string> set = text_or_none(arguments.get(0, "chars", nullptr));
  return stripped(self.string(), set, kLeft, kRight);
}

template <bool kAtStart>
Value affix(const Value& self, const Arguments& arguments, const Registry&) {
  arguments.check(kAtStart ? "startswith" : "endswith", 1, 1);
  const std::string& text = self.string();
  const auto fits = [&](const Value& part) {
    return kAtStart ? text.starts_with(part.string()) : text.ends_with(part.string());
  };
  const Value& wanted = arguments.positional[0];
  if (!wanted.is_list()) return fits(wanted);
  return std::any_of(wanted.list().begin(), wanted.list().end(), fits);
}

Value split_text(const Value& self, const Arguments& arguments, const Registry&) {
  arguments.check("split", 0, 2, {"sep", "maxsplit"});
  const std::optional<std::string> separator = text_or_none(arguments.get(0, "sep", nullptr));
  List parts;
  for (std::string& part :
       split(self.string(), separator, arguments.get(1, "maxsplit", int64_t{-1}).integer())) {
    parts.emplace_back(std::move(part));
  }
  return parts;
}

Value replace_text(const Value& self, const Arguments& arguments, const Registry& registry) {
  arguments.check("replace", 2, 3, {"old", "new", "count"});
  const Value count = arguments.get(2, "count", int64_t{-1});
  return replaced(self.string(), arguments.get(0, "old", "").text(),
                  arguments.get(1, "new", "").text(), count.is_none() ? -1 : count.integer(),
                  registry.check_size);
}

Value join_text(const Value& self, const Arguments& arguments, const Registry& registry) {
  arguments.check("join", 1, 1);
  std::string text;
  bool first = true;
  for (const Value& item : iterate(arguments.positional[0])) {
    if (!first) text += self.string();
    first = false;
    text += item.string();
    registry.check_size(text.size());
  }
  return text;
}

Value find_text(const Value& self, const Arguments& arguments, const Registry&) {
  arguments.check("find", 1, 1);
  const size_t at = self.string().find(arguments.positional[0].string());
  if (at == std::string::npos) return int64_t{-1};
  return characters(std::string_view(self.string()).substr(0, at)).size();
}

Value count_text(const Value& self, const Arguments& arguments, const Registry&) {
  arguments.check("count", 1, 1);
  return split(self.string(), arguments.positional[0].string(), -1).size() - 1;
}

Value all_digits(const Value& self, const Arguments&, const Registry&) {
  const std::string& text = self.string();
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

const std::map<std::string_view, Method>& string_methods() {
  static const std::map<std::string_view, Method> table = {
      {"strip", strip<true, true>},
      {"lstrip", strip<true, false>},
      {"rstrip", strip<false, true>},
      {"startswith", affix<true>},
      {"endswith", affix<false>},
      {"split", split_text},
      {"replace", replace_text},
      {"join", join_text},
      {"find", find_text},
      {"count", count_text},
      {"isdigit", all_digits},
      {"upper", [](const Value& s, const Arguments&,
                   const Registry&) { return Value(uppercase(s.string())); }},
      {"lower", [](const Value& s, const Arguments&,
                   const Registry&) { return Value(lowercase(s.string())); }},
      {"title",
       [](const Value& s, const Arguments&, const Registry&) { return Value(titled(s.string())); }},
      {"capitalize", [](const Value& s, const Arguments&,
                        const Registry&) { return Value(capitalized(s.string())); }},
  };
  return table;
}

const std::map<std::string_view, Method>& dict_methods() {
  static const std::map<std::string_view, Method> table = {
      {"items", [](const Value& s, const Arguments& a,
                   const Registry& r) { return apply_filter("items", s, a, r); }},
      {"keys", [](const Value& s, const Arguments&, const Registry&) { return Value(iterate(s)); }},
      {"values",
       [](const Value& s, const Arguments&, const Registry&) {
         List values;
         for (const auto& [key, value] : s.dict().items) values.push_back(value);
         return Value(values);
       }},
      {"get",
       [](const Value& s, const Arguments& a, const Registry&) {
         a.check("get", 1, 2, {"default"});
         const Value* found = s.dict().find(a.positional.at(0));
         return found != nullptr ? *found : a.get(1, "default", nullptr);
       }},
      {"update",
       [](const Value& s, const Arguments& a, const Registry&) {
         for (const Value& other : a.positional) {
           const Dict copy = other.dict();
           for (const auto& [key, value] : copy.items) s.dict().set(key, value);
         }
         for (const auto& [key, value] : a.named) s.dict().set(key, value);
         return Value(nullptr);
       }},
  };
  return table;
}

const std::map<std::string_view, Method>& list_methods() {
  static const std::map<std::string_view, Method> table = {
      {"append",
       [](const Value& s, const Arguments& a, const Registry&) {
         a.check("append", 1, 1);
         s.list().push_back(a.positional.at(0));
         return Value(nullptr);
       }},
      {"extend",
       [](const Value& s, const Arguments& a, const Registry&) {
         a.check("extend", 1, 1);
         const List more = iterate(a.positional.at(0));
         s.list().insert(s.list().end(), more.begin(), more.end());
         return Value(nullptr);
       }},
      {"pop",
       [](const Value& s, const Arguments& a, const Registry&) {
         a.check("pop", 0, 1);
         List& list = s.list();
         const auto count = static_cast<int64_t>(list.size());
         int64_t at = a.get(0, "index", int64_t{-1}).integer();
         if (at < 0) at += count;
         require(at >= 0 && at < count, "pop: index out of range");
         Value taken = list[static_cast<size_t>(at)];
         list.erase(list.begin() + at);
         return taken;
       }},
      {"count",
       [](const Value& s, const Arguments& a, const Registry&) {
         a.check("count", 1, 1);
         return Value(static_cast<int64_t>(
             std::count(s.list().begin(), s.list().end(), a.positional.at(0))));
       }},
      {"index",
       [](const Value& s, const Arguments& a, const Registry&) {
         a.check("index", 1, 1);
         const auto found = std::find(s.list().begin(), s.list().end(), a.positional.at(0));
         require(found != s.list().end(), "index: the list does not hold the value");
         return Value(static_cast<int64_t>(found - s.list().begin()));
       }},
  };
  return table;
}

}  // namespace

std::optional<Value> find_method(const Value& object, std::string_view name,
                                 const Registry& registry) {
  const std::map<std::string_view, Method>* table = object.is_string() ? &string_methods()
                                                    : object.is_dict() ? &dict_methods()
                                                    : object.is_list() ? &list_methods()
                                                                       : nullptr;
  if (table == nullptr) return std::nullopt;
  const auto found = table->find(name);
  if (found == table->end()) return std::nullopt;
  const Method method = found->second;
  return Value(Function([object, method, &registry](const Arguments& arguments) {
    return method(object, arguments, registry);
  }));
}

}  // namespace fewbit::jinja
