#include "fewbit/text/jinja_text.h"

#include <utf8proc.h>

#include "fewbit/base/error.h"
#include "fewbit/text/jinja_value.h"
#include "fewbit/text/unicode.h"

namespace fewbit::jinja {
namespace {

template <class F>
std::string per_character(std::string_view text, F f) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    append_utf8(out, f(c.value));
    at += c.length;
  }
  return out;
}

char32_t upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
bool is_cased(char32_t c) { return upper(c) != c || lower(c) != c; }

}  // namespace

std::string stripped(std::string_view text, std::optional<std::string_view> set, bool left,
                     bool right) {
  const std::vector<std::string> parts = characters(text);
  const auto goes = [&](const std::string& part) {
    return set ? set->find(part) != std::string_view::npos
               : is_white_space(decode_utf8(part, 0).value);
  };
  size_t first = 0, last = parts.size();
  while (left && first < last && goes(parts[first])) ++first;
  while (right && first < last && goes(parts[last - 1])) --last;
  std::string out;
  for (size_t i = first; i < last; ++i) out += parts[i];
  return out;
}

std::string uppercase(std::string_view text) { return per_character(text, upper); }

std::string capitalized(std::string_view text) {
  bool first = true;
  return per_character(text, [&](char32_t c) {
    c = first ? upper(c) : lower(c);
    first = false;
    return c;
  });
}

std::string titled(std::string_view text) {
  bool inside = false;
  return per_character(text, [&](char32_t c) {
    const bool cased = is_cased(c);
    c = inside ? lower(c) : upper(c);
    inside = cased;
    return c;
  });
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to, long limit,
                     const std::function<void(size_t)>& check_size) {
  require(!from.empty(), "replace: the text to replace is empty");
  std::string out;
  for (; limit != 0; --limit) {
    const size_t found = text.find(from);
    if (found == std::string_view::npos) break;
    out += text.substr(0, found);
    out += to;
    check_size(out.size());
    text.remove_prefix(found + from.size());
  }
  return out.append(text);
}

std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               long limit) {
  std::vector<std::string> parts;
  if (separator) {
    require(!separator->empty(), "split: the separator is empty");
    for (; limit != 0; --limit) {
      const size_t found = text.find(*separator);
      if (found == std::string_view::npos) break;
      parts.emplace_back(text.substr(0, found));
      text.remove_prefix(found + separator->size());
    }
    parts.emplace_back(text);
    return parts;
  }
  std::string rest = stripped(text, {}, true, false);
  while (!rest.empty()) {
    size_t end = 0;
    while (end < rest.size() && !is_white_space(decode_utf8(rest, end).value)) {
      end += decode_utf8(rest, end).length;
    }
    if (limit == 0) {
      parts.push_back(rest);
      break;
    }
    --limit;
    parts.push_back(rest.substr(0, end));
    rest = stripped(std::string_view(rest).substr(end), {}, true, false);
  }
  return parts;
}

std::string indented_lines(std::string_view text, std::string_view space, bool first, bool blank,
                           const std::function<void(size_t)>& check_size) {
  std::string out;
  bool is_first = true;
  while (true) {
    const size_t newline = text.find('\n');
    const std::string_view line = text.substr(0, newline);
    if (is_first ? first : blank || !line.empty()) out += space;
    is_first = false;
    out += line;
    check_size(out.size());
    if (newline == std::string_view::npos) return out;
    out += '\n';
    text.remove_prefix(newline + 1);
  }
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace fewbit::jinja
