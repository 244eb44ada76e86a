#include "fewbit/text/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "fewbit/base/error.h"
#include "fewbit/text/unicode.h"

namespace fewbit::jinja {
namespace {

constexpr std::string_view kSpaces = " \t\n\r\f\v";

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string with_unix_newlines(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(with_unix_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = next_tag(at_);
      text_before(tag);
      if (tag == source_.size()) break;
      at_ = tag + 2;
      const char kind = source_[tag + 1];
      const bool marked = at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+');
      if (marked) ++at_;
      if (kind == '#') {
        comment(tag);
      } else if (kind == '%' && raw_begins()) {
        raw_text();
      } else {
        push(kind == '%' ? Token::Kind::open_tag : Token::Kind::open_output, "");
        inside(kind == '%' ? "%}" : "}}");
      }
    }
    return std::move(tokens_);
  }

 private:
  void push(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }
  [[noreturn]] void fail_here(std::string_view what) const { fail("line {}: {}", line_, what); }
  void count_lines(std::string_view text) {
    line_ += static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }

  size_t next_tag(size_t from) const {
    for (size_t i = from; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{') continue;
      const char c = source_[i + 1];
      if (c == '%' || c == '{' || c == '#') return i;
    }
    return source_.size();
  }

  // What a tag at `tag` leaves of the text before it.
  std::string_view stripped(std::string_view text, size_t tag) const {
    if (tag == source_.size()) return text;
    const char mark = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    if (mark == '-') {
      const size_t last = text.find_last_not_of(kSpaces);
      return last == std::string_view::npos ? std::string_view() : text.substr(0, last + 1);
    }
    if (source_[tag + 1] == '{' || mark == '+') return text;
    const size_t newline = text.rfind('\n');
    const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    const bool begins_line = newline != std::string_view::npos || line_starts_;
    if (begins_line && text.find_first_not_of(" \t", start) == std::string_view::npos) {
      return text.substr(0, start);
    }
    return text;
  }

  void text_before(size_t tag) {
    const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const std::string_view kept = stripped(text, tag);
    if (!kept.empty()) push(Token::Kind::text, std::string(kept));
    count_lines(text);
  }

  // Behind the end of a tag, at at_: what follows may be trimmed. `mark`: the character before.
  void after_tag(char mark, bool trims_newline) {
    line_starts_ = false;
    if (mark == '-') {
      const size_t next = std::min(source_.find_first_not_of(kSpaces, at_), source_.size());
      const std::string_view skipped = std::string_view(source_).substr(at_, next - at_);
      line_starts_ = skipped.ends_with('\n');
      count_lines(skipped);
      at_ = next;
    } else if (trims_newline && mark != '+' && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
      ++line_;
      line_starts_ = true;
    }
  }

  void comment(size_t tag) {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_here("the comment has no end");
    count_lines(std::string_view(source_).substr(tag, end - tag));
    at_ = end + 2;
    after_tag(source_[end - 1], true);
  }

  // {% raw %} at at_ (behind the opening characters).
  bool raw_begins() const { return word_at(at_) == "raw"; }
  std::string_view word_at(size_t from) const {
    const size_t start = std::min(source_.find_first_not_of(kSpaces, from), source_.size());
    size_t end = start;
    while (end < source_.size() && is_name_start(source_[end])) ++end;
    return std::string_view(source_).substr(start, end - start);
  }
  void raw_text() {
    const size_t open_end = source_.find("%}", at_);
    if (open_end == std::string::npos) fail_here("the tag has no end");
    at_ = open_end + 2;
    after_tag(source_[open_end - 1], true);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      size_t word = tag + 2;
      if (word < source_.size() && (source_[word] == '-' || source_[word] == '+')) ++word;
      if (word_at(word) != "endraw") continue;
      text_before(tag);
      const size_t end = source_.find("%}", word);
      if (end == std::string::npos) break;
      at_ = end + 2;
      after_tag(source_[end - 1], true);
      return;
    }
    fail_here("raw has no endraw");
  }

  // Tokens up to the end of the tag.
  void inside(std::string_view end) {
    int brackets = 0;
    while (true) {
      skip_spaces();
      if (at_ >= source_.size()) fail_here("the tag has no end");
      const std::string_view rest = std::string_view(source_).substr(at_);
      if (brackets == 0 && ends_tag(rest, end)) return;
      const char c = rest[0];
      if (c == '"' || c == '\'') {
        string_literal(c);
      } else if (is_digit(c)) {
        number();
      } else if (is_name_start(c)) {
        size_t length = 0;
        while (length < rest.size() && (is_name_start(rest[length]) || is_digit(rest[length]))) {
          ++length;
        }
        push(Token::Kind::name, std::string(rest.substr(0, length)));
        at_ += length;
      } else {
        const std::string_view operation = operation_at(rest);
        if (operation == "(" || operation == "[" || operation == "{") ++brackets;
        if (operation == ")" || operation == "]" || operation == "}") --brackets;
        push(Token::Kind::operation, std::string(operation));
        at_ += operation.size();
      }
    }
  }

  bool ends_tag(std::string_view rest, std::string_view end) {
    const bool is_block = end == "%}";
    const bool marked =
        (rest[0] == '-' || (is_block && rest[0] == '+')) && rest.substr(1).starts_with(end);
    if (!marked && !rest.starts_with(end)) return false;
    push(is_block ? Token::Kind::close_tag : Token::Kind::close_output, "");
    at_ += end.size() + (marked ? 1 : 0);
    after_tag(marked ? rest[0] : ' ', is_block);
    return true;
  }

  void skip_spaces() {
    while (at_ < source_.size() && kSpaces.find(source_[at_]) != std::string_view::npos) {
      if (source_[at_] == '\n') ++line_;
      ++at_;
    }
  }

  std::string_view operation_at(std::string_view rest) const {
    constexpr std::array<std::string_view, 26> kOperations = {
        "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
        ">",  "=",  ".",  ":",  "|",  ",",  "(", ")", "[", "]", "{", "}", ";"};
    for (const std::string_view operation : kOperations) {
      if (rest.starts_with(operation)) return operation;
    }
    fail_here(fmt::format("unexpected character '{}'", rest[0]));
  }

  void number() {
    size_t end = at_;
    const auto digits = [&] {
      while (end < source_.size() && (is_digit(source_[end]) || source_[end] == '_')) ++end;
    };
    digits();
    bool real = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      real = true;
      ++end;
      digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
        ++exponent;
      }
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        real = true;
        end = exponent;
        digits();
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    push(real ? Token::Kind::real : Token::Kind::integer, std::move(text));
    at_ = end;
  }

  char32_t hexadecimal(size_t digits) {
    char32_t value = 0;
    for (size_t i = 0; i < digits; ++i) {
      const char c = at_ < source_.size() ? source_[at_] : ' ';
      const std::string_view kDigits = "0123456789abcdef";
      const size_t digit = kDigits.find(static_cast<char>(c | (is_digit(c) ? 0 : 0x20)));
      if (digit == std::string_view::npos) fail_here("a bad escape in a string");
      value = value * 16 + static_cast<char32_t>(digit);
      ++at_;
    }
    return value;
  }

  void string_literal(char quote) {
    std::string text;
    for (++at_;; ++at_) {
      if (at_ >= source_.size()) fail_here("the string has no end");
      char c = source_[at_];
      if (c == quote) break;
      if (c == '\n') ++line_;
      if (c != '\\' || at_ + 1 >= source_.size()) {
        text += c;
        continue;
      }
      c = source_[++at_];
      constexpr std::string_view kEscapes = "ntrbfav0\\\"'", kMeanings("\n\t\r\b\f\a\v\0\\\"'", 11);
      if (const size_t found = kEscapes.find(c); found != std::string_view::npos) {
        text += kMeanings[found];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        ++at_;
        const char32_t value = hexadecimal(c == 'x' ? 2 : c == 'u' ? 4 : 8);
        --at_;
        constexpr char32_t kLast = 0x10ffff, kFirstSurrogate = 0xd800, kLastSurrogate = 0xdfff;
        const bool valid = value <= kLast && (value < kFirstSurrogate || value > kLastSurrogate);
        append_utf8(text, valid ? value : kReplacementCharacter);
      } else if (c != '\n') {
        text += '\\';
        text += c;
      }
    }
    ++at_;
    push(Token::Kind::string, std::move(text));
  }

  std::string source_;
  size_t at_ = 0, line_ = 1;
  bool line_starts_ = true;  // The text at at_ begins a line.
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace fewbit::jinja
