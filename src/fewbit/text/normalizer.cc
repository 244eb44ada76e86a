#include "fewbit/text/normalizer.h"

#include <utility>

#include "fewbit/text/json_component.h"

namespace fewbit {
namespace {

constexpr size_t kMaxSteps = 64;

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
// Clang 14 deduces no aggregates.
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

}  // namespace

size_t max_expanded_bytes(size_t bytes) {
  // NFKC's longest expansion is 11-fold (U+FDFA); Prepend adds a constant.
  constexpr size_t kFactor = 32, kConstant = size_t{1} << 16;
  return bytes * kFactor + kConstant;
}

std::string replace_matches(std::string_view text, const Regex& pattern, Regex::Scratch& scratch,
                            std::string_view content, size_t max_bytes) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  while (const std::optional<TextRange> match = pattern.find(text, done, scratch)) {
    out += text.substr(done, match->begin - done);
    out += content;
    done = match->end;
    require(out.size() <= max_bytes, "a Replace makes the text longer than {} bytes", max_bytes);
  }
  out += text.substr(done);
  require(out.size() <= max_bytes, "a Replace makes the text longer than {} bytes", max_bytes);
  return out;
}

Normalizer Normalizer::from_json(const Json& component) {
  Normalizer normalizer;
  if (!component.is_null()) normalizer.append(component);
  require(normalizer.steps_.size() <= kMaxSteps, "more than {} steps", kMaxSteps);
  return normalizer;
}

void Normalizer::append(const Json& component) {
  const std::string type = component_type(component);
  if (type == "Sequence") {
    for_each_component(component, "normalizers", [&](const Json& item) { append(item); });
  } else if (type == "NFC") {
    steps_.emplace_back(NormalForm::nfc);
  } else if (type == "NFD") {
    steps_.emplace_back(NormalForm::nfd);
  } else if (type == "NFKC") {
    steps_.emplace_back(NormalForm::nfkc);
  } else if (type == "NFKD") {
    steps_.emplace_back(NormalForm::nfkd);
  } else if (type == "Lowercase") {
    steps_.emplace_back(Lowercase{});
  } else if (type == "StripAccents") {
    steps_.emplace_back(StripAccents{});
  } else if (type == "Strip") {
    steps_.emplace_back(Strip{json_get_or(component, "strip_left", true),
                              json_get_or(component, "strip_right", true)});
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{json_get<std::string>(component, "prepend")});
  } else if (type == "Replace") {
    steps_.emplace_back(Replace{component_pattern(component, "pattern"),
                                json_get<std::string>(component, "content")});
  } else {
    fail(
        "type '{}' is not supported; supported: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, "
        "StripAccents, Strip, Prepend, Replace",
        type);
  }
}

Normalizer::Scratch Normalizer::make_scratch() const {
  Scratch scratch;
  for (const Step& step : steps_) {
    if (const auto* replace = std::get_if<Replace>(&step)) scratch.emplace_back(replace->pattern);
  }
  return scratch;
}

Normalizer::Result Normalizer::apply(std::string_view text, Scratch& scratch) const {
  Result result{std::string(text), false};
  const size_t max_bytes = max_expanded_bytes(text.size());
  size_t next_scratch = 0;
  std::string& out = result.text;
  for (const Step& step : steps_) {
    std::visit(Overloaded{
                   [&](NormalForm form) { out = normalize_unicode(out, form); },
                   [&](const Lowercase&) { out = lowercase(out); },
                   [&](const StripAccents&) { out = strip_marks(out); },
                   [&](const Strip& strip) {
                     size_t begin = 0, end = out.size();
                     while (strip.left && begin < end) {
                       const CodePoint point = decode_utf8(out, begin);
                       if (!is_white_space(point.value)) break;
                       begin += point.length;
                     }
                     while (strip.right && begin < end) {
                       const CodePoint point =
                           last_code_point(std::string_view(out).substr(0, end));
                       if (!is_white_space(point.value)) break;
                       end -= point.length;
                     }
                     result.front_removed |= begin > 0;
                     out = out.substr(begin, end - begin);
                   },
                   [&](const Prepend& prepend) {
                     if (!out.empty()) out.insert(0, prepend.text);
                   },
                   [&](const Replace& replace) {
                     out = replace_matches(out, replace.pattern, scratch[next_scratch++],
                                           replace.content, max_bytes);
                   },
               },
               step);
    require(out.size() <= max_bytes, "the normalizer makes {} bytes longer than {}", text.size(),
            max_bytes);
  }
  return result;
}

}  // namespace fewbit
