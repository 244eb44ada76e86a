#include "fewbit/text/token_decoder.h"

#include <charconv>
#include <numeric>
#include <optional>
#include <utility>

#include "fewbit/text/json_component.h"
#include "fewbit/text/normalizer.h"
#include "fewbit/text/pre_tokenizer.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxStrip = size_t{1} << 20;

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
// Clang 14 deduces no aggregates.
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

// The byte that "<0xNN>" stands for.
std::optional<char> fallback_byte(std::string_view token) {
  constexpr std::string_view kFront = "<0x";
  if (token.size() != 6 || !token.starts_with(kFront) || token.back() != '>') return std::nullopt;
  uint8_t byte = 0;
  const char* end = token.data() + 5;
  const auto [read, error] = std::from_chars(token.data() + kFront.size(), end, byte, 16);
  if (error != std::errc() || read != end) return std::nullopt;
  return static_cast<char>(byte);
}

// The bytes that a token of the byte alphabet stands for; one with other characters is literal.
std::string byte_level_bytes(std::string_view token) {
  std::optional<std::string> bytes = from_byte_symbols(token);
  return bytes ? std::move(*bytes) : std::string(token);
}

std::string joined(const std::vector<std::string>& tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), std::string());
}

// Runs of byte tokens as characters; every byte of a run that is not UTF-8 becomes U+FFFD.
std::vector<std::string> merge_fallback_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto finish_run = [&] {
    if (run.empty()) return;
    if (valid_utf8_prefix(run) == run.size()) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), to_utf8(kReplacementCharacter));
    }
    run.clear();
  };
  for (const std::string& token : tokens) {
    if (const std::optional<char> byte = fallback_byte(token)) {
      run.push_back(*byte);
    } else {
      finish_run();
      out.push_back(token);
    }
  }
  finish_run();
  return out;
}

std::string without_marks(std::string_view token, std::string_view mark, bool drop) {
  std::string out;
  for (size_t done = 0; done <= token.size();) {
    const size_t found = std::min(token.find(mark, done), token.size());
    out += token.substr(done, found - done);
    if (found == token.size()) break;
    if (!drop) out += ' ';
    done = found + mark.size();
  }
  return out;
}

std::string stripped(std::string_view token, std::string_view content, size_t start, size_t stop) {
  for (; start > 0 && token.starts_with(content); --start) token.remove_prefix(content.size());
  for (; stop > 0 && token.ends_with(content); --stop) token.remove_suffix(content.size());
  return std::string(token);
}

std::string replaced(std::string_view token, const Regex& pattern, Regex::Scratch& scratch,
                     std::string_view content) {
  return replace_matches(token, pattern, scratch, content, max_expanded_bytes(token.size()));
}

}  // namespace

TokenDecoder TokenDecoder::from_json(const Json& component) {
  TokenDecoder decoder;
  if (component.is_null()) return decoder;
  decoder.join_with_spaces_ = false;
  decoder.append(component);
  require(decoder.steps_.size() <= kMaxSteps, "more than {} steps", kMaxSteps);
  return decoder;
}

TokenDecoder TokenDecoder::byte_level() {
  TokenDecoder decoder;
  decoder.join_with_spaces_ = false;
  decoder.steps_.emplace_back(ByteLevel{});
  return decoder;
}

TokenDecoder TokenDecoder::byte_fallback(bool strip_space) {
  TokenDecoder decoder;
  decoder.join_with_spaces_ = false;
  decoder.steps_.emplace_back(ByteFallback{});
  decoder.steps_.emplace_back(Fuse{});
  if (strip_space) decoder.steps_.emplace_back(Strip{" ", 1, 0});
  return decoder;
}

void TokenDecoder::append(const Json& component) {
  const std::string type = component_type(component);
  if (type == "Sequence") {
    for_each_component(component, "decoders", [&](const Json& item) { append(item); });
  } else if (type == "ByteLevel") {
    steps_.emplace_back(ByteLevel{});
  } else if (type == "Replace") {
    steps_.emplace_back(Replace{component_pattern(component, "pattern"),
                                json_get<std::string>(component, "content")});
  } else if (type == "ByteFallback") {
    steps_.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    steps_.emplace_back(Fuse{});
  } else if (type == "Strip") {
    const std::string content = json_get<std::string>(component, "content");
    require(!content.empty(), "key 'content' is empty");
    steps_.emplace_back(Strip{content, json_get_size_or(component, "start", 0, kMaxStrip),
                              json_get_size_or(component, "stop", 0, kMaxStrip)});
  } else if (type == "Metaspace") {
    steps_.emplace_back(Metaspace{component_replacement(component),
                                  read_prepend_scheme(component) != PrependScheme::never});
  } else {
    fail(
        "type '{}' is not supported; supported: Sequence, ByteLevel, Replace, ByteFallback, Fuse, "
        "Strip, Metaspace",
        type);
  }
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  if (join_with_spaces_) {
    std::string out;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) out += ' ';
      out += tokens[i];
    }
    return out;
  }
  const auto change_all = [&](const auto& change) {
    for (std::string& token : tokens) token = change(token);
  };
  for (const Step& step : steps_) {
    std::visit(Overloaded{
                   [&](const ByteLevel&) {
                     change_all(byte_level_bytes);
                     tokens = {replace_invalid_utf8(joined(tokens))};
                   },
                   [&](const Replace& replace) {
                     Regex::Scratch scratch(replace.pattern);
                     change_all([&](const std::string& token) {
                       return replaced(token, replace.pattern, scratch, replace.content);
                     });
                   },
                   [&](const ByteFallback&) { tokens = merge_fallback_bytes(tokens); },
                   [&](const Fuse&) { tokens = {joined(tokens)}; },
                   [&](const Strip& strip) {
                     change_all([&](const std::string& token) {
                       return stripped(token, strip.content, strip.start, strip.stop);
                     });
                   },
                   [&](const Metaspace& metaspace) {
                     for (size_t i = 0; i < tokens.size(); ++i) {
                       tokens[i] = without_marks(tokens[i], metaspace.replacement,
                                                 metaspace.strip_first && i == 0);
                     }
                   },
               },
               step);
  }
  return joined(tokens);
}

std::string TokenDecoder::token_bytes(std::string_view token) const {
  std::string bytes(token);
  for (const Step& step : steps_) {
    if (std::holds_alternative<ByteLevel>(step)) {
      bytes = byte_level_bytes(bytes);
    } else if (const auto* replace = std::get_if<Replace>(&step)) {
      Regex::Scratch scratch(replace->pattern);
      bytes = replaced(bytes, replace->pattern, scratch, replace->content);
    } else if (std::holds_alternative<ByteFallback>(step)) {
      // Nothing later in the chain may see a byte that is no character.
      if (const std::optional<char> byte = fallback_byte(bytes)) return std::string(1, *byte);
    } else if (const auto* metaspace = std::get_if<Metaspace>(&step)) {
      bytes = without_marks(bytes, metaspace->replacement, false);
    }
  }
  return bytes;
}

}  // namespace fewbit
