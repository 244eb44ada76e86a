#include "fewbit/eval/wikitext.h"

#include <cmath>
#include <numbers>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

// Python's str.split() and \s know these beyond ASCII; given the bytes at `at`, the length of a
// white-space character there, else 0.
size_t space_at(std::string_view text, size_t at) {
  if (is_space(text[at])) return 1;
  const auto starts = [&](std::string_view bytes) { return text.substr(at).starts_with(bytes); };
  if (starts("\xc2\x85") || starts("\xc2\xa0")) return 2;
  if (starts("\xe1\x9a\x80")) return 3;
  if (starts("\xe2\x80") && at + 2 < text.size()) {
    const unsigned char last = static_cast<unsigned char>(text[at + 2]);
    if ((last >= 0x80 && last <= 0x8a) || last == 0xa8 || last == 0xa9 || last == 0xaf) return 3;
  }
  if (starts("\xe2\x81\x9f") || starts("\xe3\x80\x80")) return 3;
  return 0;
}

std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    const size_t length = space_at(text, 0);
    if (length == 0) break;
    text.remove_prefix(length);
  }
  for (bool again = true; again && !text.empty();) {
    again = false;
    for (size_t length = 1; length <= 3 && length <= text.size(); ++length) {
      if (space_at(text, text.size() - length) == length) {
        text.remove_suffix(length);
        again = true;
        break;
      }
    }
  }
  return text;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string result;
  result.reserve(text.size());
  size_t at = 0;
  for (;;) {
    const size_t found = text.find(from, at);
    if (found == std::string::npos) break;
    result.append(text, at, found - at).append(to);
    at = found + from.size();
  }
  result.append(text, at, std::string::npos);
  text = std::move(result);
}

// open \s* ([^close]*?) \s* close  ->  open \1 close
void tighten(std::string& text, char open, char close) {
  std::string result;
  result.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const size_t start = text.find(open, at);
    if (start == std::string::npos) break;
    const size_t end = text.find(close, start + 1);
    if (end == std::string::npos) break;
    result.append(text, at, start - at);
    result += open;
    result += strip(std::string_view(text).substr(start + 1, end - start - 1));
    result += close;
    at = end + 1;
  }
  result.append(text, at, std::string::npos);
  text = std::move(result);
}

// Reading "= = =" as "===" and "= =" as "==", is this the line of a title of the first level?
bool opens_article(std::string_view line) {
  std::string plain(line);
  replace_all(plain, "= = =", "===");
  replace_all(plain, "= =", "==");
  const std::string_view stripped = strip(plain);
  return stripped.starts_with("= ") && stripped.ends_with(" =");
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t at = 0;
  for (;;) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) break;
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  lines.push_back(text.substr(at));
  return lines;
}

}  // namespace

std::string file_form(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return std::string(text);
}

std::string hub_form(std::string_view text) {
  std::vector<std::string_view> lines = lines_of(text);
  if (lines.back().empty()) lines.pop_back();
  std::string result;
  result.reserve(text.size() + 2 * lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) result += "\n\n";
    if (strip(lines[i]).empty()) continue;
    result += lines[i];
    result += '\n';
  }
  return result;
}

std::string wikitext_detokenise(std::string_view article) {
  std::string text(article);
  replace_all(text, "s '", "s'");
  // Numbers, then punctuation.
  replace_all(text, " @-@ ", "-");
  replace_all(text, " @,@ ", ",");
  replace_all(text, " @.@ ", ".");
  for (const char* mark : {":", ";", ".", "!", "?", ","}) {
    replace_all(text, fmt::format(" {} ", mark), fmt::format("{} ", mark));
  }
  tighten(text, '(', ')');
  tighten(text, '[', ']');
  tighten(text, '{', '}');
  tighten(text, '"', '"');
  tighten(text, '\'', '\'');
  replace_all(text, "= = = =", "====");
  replace_all(text, "= = =", "===");
  replace_all(text, "= =", "==");
  replace_all(text, " \xc2\xb0 ", "\xc2\xb0");
  replace_all(text, " \n", "\n");
  replace_all(text, "\n ", "\n");
  replace_all(text, " N ", " 1 ");
  replace_all(text, " 's", "'s");
  return text;
}

std::vector<WikitextArticle> wikitext_articles(std::string_view text) {
  std::vector<WikitextArticle> articles;
  std::string current;
  bool first_line = true;
  const auto close = [&] {
    if (!strip(current).empty()) articles.push_back({current, wikitext_detokenise(current)});
    current.clear();
  };
  for (const std::string_view line : lines_of(text)) {
    if (opens_article(line)) {
      close();
      first_line = true;
    }
    if (!first_line) current += '\n';
    current += line;
    first_line = false;
  }
  close();
  require(!articles.empty(), "the text holds no article");
  return articles;
}

size_t whitespace_pieces(std::string_view text) {
  size_t pieces = 1;
  for (size_t at = 0; at < text.size();) {
    size_t length = space_at(text, at);
    if (length == 0) {
      ++at;
      continue;
    }
    ++pieces;
    while (at < text.size() && (length = space_at(text, at)) > 0) at += length;
  }
  return pieces;
}

DocumentMetrics document_metrics(double total_nll, std::span<const std::string_view> originals) {
  DocumentMetrics m;
  for (const std::string_view original : originals) {
    m.words += whitespace_pieces(original);
    m.bytes += original.size();
  }
  require(m.bytes > 0, "no text to normalise by");
  m.word_perplexity = std::exp(total_nll / static_cast<double>(m.words));
  m.byte_perplexity = std::exp(total_nll / static_cast<double>(m.bytes));
  m.bits_per_byte = total_nll / (static_cast<double>(m.bytes) * std::numbers::ln2);
  return m;
}

}  // namespace fewbit
