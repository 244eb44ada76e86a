#define PCRE2_CODE_UNIT_WIDTH 8
#include "fewbit/text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
// Patterns of tokenizers need a few steps a byte; catastrophic ones are stopped here.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytes = 32 * 1024, kMaxJitStackBytes = 1024 * 1024;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// Oniguruma's word characters: PCRE2's lack the marks and have all numbers, of which Oniguruma
// takes the digits and those of Latin-1.
constexpr std::string_view kWordClass =
    "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

// Rewrites what the two engines read differently, and refuses what PCRE2 cannot say.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\' && at_ + 1 < pattern_.size()) {
        translate_escape();
      } else {
        translate_plain();
      }
    }
    return std::move(out_);
  }

 private:
  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void translate_escape() {
    const char escape = pattern_[at_ + 1];
    const size_t begin = at_;
    at_ += 2;
    if (escape == 's') {
      // PCRE2's \s holds U+180E, which is not White_Space.
      out_ += "\\p{White_Space}";
    } else if (escape == 'S') {
      out_ += "\\P{White_Space}";
    } else if (escape == 'w') {
      out_ += in_class_ ? std::string(kWordClass) : fmt::format("[{}]", kWordClass);
    } else if (escape == 'W') {
      require(!in_class_, "regular expression '{}': \\W in a class is not supported", pattern_);
      out_ += fmt::format("[^{}]", kWordClass);
    } else {
      // The braces of \p{..} and \x{..} are no interval.
      constexpr std::string_view kWithBraces = "pPxokgN";
      const size_t close = pattern_.find('}', at_);
      if (kWithBraces.find(escape) != std::string_view::npos && next_is("{") &&
          close != std::string_view::npos) {
        at_ = close + 1;
      }
      out_ += pattern_.substr(begin, at_ - begin);
    }
  }

  void translate_plain() {
    if (in_class_) {
      require(!next_is("&&") && (!next_is("[") || next_is("[:")),
              "regular expression '{}': sets within a class are not supported", pattern_);
      if (next_is("[:")) {
        const size_t close = std::min(pattern_.find(":]", at_), pattern_.size() - 2);
        out_ += pattern_.substr(at_, close + 2 - at_);
        at_ = close + 2;
        return;
      }
      in_class_ = !next_is("]");
    } else if (next_is("[")) {
      in_class_ = true;
      // A bracket that comes first is a member.
      for (const std::string_view opening : {"[^]", "[]", "[^", "["}) {
        if (!next_is(opening)) continue;
        out_ += opening;
        at_ += opening.size();
        return;
      }
    } else {
      require(!next_is("}+"), "regular expression '{}': '+' after an interval is not supported",
              pattern_);
    }
    out_ += pattern_[at_++];
  }

  std::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Regex Regex::compile(std::string_view pattern) {
  require(!pattern.empty(), "an empty regular expression");
  require(pattern.size() <= kMaxPatternBytes, "a regular expression of {} bytes; at most {}",
          pattern.size(), kMaxPatternBytes);
  require(valid_utf8_prefix(pattern) == pattern.size(), "a regular expression is not UTF-8");
  Regex regex;
  regex.pattern_ = pattern;
  const std::string translated = Translator(pattern).run();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  require(code != nullptr, "regular expression '{}': {} at byte {}", pattern, message_of(error),
          offset);
  regex.code_ = std::shared_ptr<void>(
      code, [](void* pointer) { pcre2_code_free(static_cast<pcre2_code*>(pointer)); });
  // Without a JIT on this machine the interpreter runs, with the same results.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return regex;
}

Regex Regex::literal(std::string_view text) {
  require(!text.empty(), "an empty pattern");
  Regex regex;
  regex.pattern_ = text;
  regex.literal_ = true;
  return regex;
}

Regex::Scratch::Scratch(const Regex& regex) {
  if (regex.literal_) return;
  struct Context {
    pcre2_match_context* match = pcre2_match_context_create(nullptr);
    pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackBytes, kMaxJitStackBytes, nullptr);
    ~Context() {
      pcre2_jit_stack_free(stack);
      pcre2_match_context_free(match);
    }
  };
  const auto context = std::make_shared<Context>();
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(
      static_cast<const pcre2_code*>(regex.code_.get()), nullptr);
  match_data_ = std::shared_ptr<void>(
      data, [](void* pointer) { pcre2_match_data_free(static_cast<pcre2_match_data*>(pointer)); });
  if (context->match == nullptr || data == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(context->match, kMatchLimit);
  pcre2_set_heap_limit(context->match, kHeapLimitKib);
  pcre2_jit_stack_assign(context->match, nullptr, context->stack);
  context_ = std::shared_ptr<void>(context, context->match);
}

std::optional<TextRange> Regex::find(std::string_view text, size_t from, Scratch& scratch) const {
  if (literal_) {
    const size_t begin = text.find(pattern_, from);
    if (begin == std::string_view::npos) return std::nullopt;
    return TextRange{begin, begin + pattern_.size()};
  }
  auto* data = static_cast<pcre2_match_data*>(scratch.match_data_.get());
  while (from < text.size()) {
    const auto match = [&](uint32_t options) {
      return pcre2_match(static_cast<const pcre2_code*>(code_.get()),
                         reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | options, data,
                         static_cast<pcre2_match_context*>(scratch.context_.get()));
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (result < 0) fail("regular expression '{}': {}", pattern_, message_of(result));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    // \K can make a match begin before `from`, or after its end; such a match counts for nothing.
    if (range[0] >= from && range[0] < range[1]) return TextRange{range[0], range[1]};
    from = range[1] > from ? range[1] : from + decode_utf8(text, from).length;
  }
  return std::nullopt;
}

}  // namespace fewbit
