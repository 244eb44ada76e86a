#include "fewbit/text/unicode.h"

#include <utf8proc.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr char32_t kLastSymbol = 0x143;

bool is_continuation(uint8_t byte) { return (byte & 0xc0u) == 0x80u; }

bool is_ascii(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, sizeof(word));
    if (word & 0x8080808080808080u) return false;
  }
  for (; i < text.size(); ++i) {
    if (static_cast<uint8_t>(text[i]) & 0x80u) return false;
  }
  return true;
}

struct ByteAlphabet {
  std::array<char32_t, 256> symbols;
  std::array<int16_t, kLastSymbol + 1> bytes;

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
                             (byte >= 174 && byte <= 255);
      const char32_t symbol = printable ? static_cast<char32_t>(byte) : next++;
      symbols[static_cast<size_t>(byte)] = symbol;
      bytes[symbol] = static_cast<int16_t>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

utf8proc_category_t category(char32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

}  // namespace

CodePoint decode_utf8(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const CodePoint invalid{kReplacementCharacter, 1, false};
  if (lead < 0xc2 || lead > 0xf4) return invalid;
  const uint8_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  char32_t value = lead & (0x7fu >> length);
  for (uint8_t i = 1; i < length; ++i) {
    const bool fits = position + i < text.size() &&
                      (i == 1 ? byte(1) >= low && byte(1) <= high : is_continuation(byte(i)));
    if (!fits) return {kReplacementCharacter, i, false};
    value = (value << 6) | (byte(i) & 0x3fu);
  }
  return {value, length, true};
}

CodePoint last_code_point(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && is_continuation(static_cast<uint8_t>(text[start]))) --start;
  return decode_utf8(text, start);
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3f));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

std::string to_utf8(char32_t code_point) {
  std::string out;
  append_utf8(out, code_point);
  return out;
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (i + 8 <= text.size()) {
      uint64_t word;
      std::memcpy(&word, text.data() + i, sizeof(word));
      if (!(word & 0x8080808080808080u)) {
        i += 8;
        continue;
      }
    }
    const CodePoint point = decode_utf8(text, i);
    if (!point.valid) return i;
    i += point.length;
  }
  return i;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = valid_utf8_prefix(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    append_utf8(out, kReplacementCharacter);
    text.remove_prefix(decode_utf8(text, 0).length);
  }
  return out;
}

size_t incomplete_utf8_suffix(std::string_view text) {
  constexpr size_t kLongestIncomplete = 3;
  for (size_t back = 1; back <= kLongestIncomplete && back <= text.size(); ++back) {
    const auto lead = static_cast<uint8_t>(text[text.size() - back]);
    if (is_continuation(lead)) continue;
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
    const CodePoint point = decode_utf8(text, text.size() - back);
    return !point.valid && length > back && point.length == back ? back : 0;
  }
  return 0;
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0d);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
         kind == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_word_character(char32_t c) {
  constexpr char32_t kZeroWidthNonJoiner = 0x200c, kZeroWidthJoiner = 0x200d;
  if (c == kZeroWidthNonJoiner || c == kZeroWidthJoiner) return true;
  const auto kind = category(c);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) ||
         kind == UTF8PROC_CATEGORY_PC;
}

std::string normalize_unicode(std::string_view text, NormalForm form) {
  if (is_ascii(text)) return std::string(text);
  const bool composed = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
      (compatible ? UTF8PROC_COMPAT : 0));
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &raw, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> buffer(raw, &std::free);
  require(size >= 0, "Unicode normalization: {}", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(buffer.get()), static_cast<size_t>(size)};
}

std::string lowercase(std::string_view text) {
  // The one character whose lower-case form is longer than a code point.
  constexpr char32_t kCapitalIWithDot = 0x130;
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint point = decode_utf8(text, i);
    i += point.length;
    if (point.value == kCapitalIWithDot) {
      out += "i\xcc\x87";
    } else {
      append_utf8(
          out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point.value))));
    }
  }
  return out;
}

std::string strip_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint point = decode_utf8(text, i);
    const auto kind = category(point.value);
    const bool mark = kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
    if (!mark) out += text.substr(i, point.length);
    i += point.length;
  }
  return out;
}

char32_t byte_symbol(uint8_t byte) { return byte_alphabet().symbols[byte]; }

std::optional<uint8_t> symbol_byte(char32_t code_point) {
  if (code_point > kLastSymbol) return std::nullopt;
  const int16_t byte = byte_alphabet().bytes[code_point];
  if (byte < 0) return std::nullopt;
  return static_cast<uint8_t>(byte);
}

std::string to_byte_symbols(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) append_utf8(out, byte_symbol(static_cast<uint8_t>(byte)));
  return out;
}

std::optional<std::string> from_byte_symbols(std::string_view symbols) {
  std::string out;
  out.reserve(symbols.size());
  for (size_t i = 0; i < symbols.size();) {
    const CodePoint point = decode_utf8(symbols, i);
    const std::optional<uint8_t> byte =
        point.valid ? symbol_byte(point.value) : std::optional<uint8_t>();
    if (!byte) return std::nullopt;
    out.push_back(static_cast<char>(*byte));
    i += point.length;
  }
  return out;
}

}  // namespace fewbit
