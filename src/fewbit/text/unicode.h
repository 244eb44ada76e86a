// UTF-8 and the Unicode properties that tokenizers ask for.
//
// Property data is utf8proc's. White space is the property White_Space, word characters are those
// of Unicode's \w (letters, marks, numbers, connector punctuation, joiners).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fewbit {

inline constexpr char32_t kReplacementCharacter = 0xfffd;

struct CodePoint {
  char32_t value = 0;
  // Bytes it takes, at least 1.
  uint8_t length = 1;
  // False: `length` bytes are a maximal invalid part (WHATWG Encoding), value is U+FFFD.
  bool valid = true;
};

// The code point at `position` < text.size().
CodePoint decode_utf8(std::string_view text, size_t position);
// The last code point of a valid, non-empty text.
CodePoint last_code_point(std::string_view text);
void append_utf8(std::string& out, char32_t code_point);
std::string to_utf8(char32_t code_point);

// Length of the longest valid prefix; text.size() for valid UTF-8.
size_t valid_utf8_prefix(std::string_view text);
// Every maximal invalid part becomes one U+FFFD.
std::string replace_invalid_utf8(std::string_view text);
// Bytes at the end that may be the beginning of a code point still to come: 0 to 3.
size_t incomplete_utf8_suffix(std::string_view text);

bool is_white_space(char32_t code_point);
bool is_numeric(char32_t code_point);      // Categories N*.
bool is_punctuation(char32_t code_point);  // ASCII punctuation and symbols, and categories P*.
bool is_word_character(char32_t code_point);

// Valid UTF-8 in, valid UTF-8 out.
enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::string normalize_unicode(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);
// Without combining marks (categories M*).
std::string strip_marks(std::string_view text);

// The printable alphabet of byte-level BPE (Radford et al. 2019): the bytes 33-126, 161-172 and
// 174-255 are written as the code points of those numbers, the 68 others, in increasing order, as
// U+0100, U+0101, ...
char32_t byte_symbol(uint8_t byte);
// The byte that a code point of the alphabet stands for.
std::optional<uint8_t> symbol_byte(char32_t code_point);
std::string to_byte_symbols(std::string_view bytes);
// The bytes of a text in that alphabet; nothing if one of its code points lies outside.
std::optional<std::string> from_byte_symbols(std::string_view symbols);

}  // namespace fewbit
