#include "fewbit/text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "fewbit/text/json_component.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

// The pattern of GPT-2's encoder, which ByteLevel's use_regex stands for.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kWordsPattern = R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}]+)"
                                           R"(|[^\s\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}]+)";
constexpr std::string_view kPunctuationPattern = R"([\p{P}$+<=>^`|~])";

// Each step is a level of recursion.
constexpr size_t kMaxSteps = 64;

SplitBehavior read_behavior(const Json& component, std::string_view fallback) {
  const std::string name = json_get_or(component, "behavior", std::string(fallback));
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail(
      "key 'behavior': '{}'; allowed: Removed, Isolated, MergedWithPrevious, MergedWithNext, "
      "Contiguous",
      name);
}

// Takes the segments of a text, matches and what lies between, in order, and hands out pieces.
template <class Emit>
class Joiner {
 public:
  Joiner(SplitBehavior behavior, Emit emit) : behavior_(behavior), emit_(std::move(emit)) {}

  void add(TextRange range, bool match) {
    if (range.begin == range.end) return;
    switch (behavior_) {
      case SplitBehavior::removed:
        if (!match) emit_(range);
        return;
      case SplitBehavior::isolated:
        emit_(range);
        return;
      case SplitBehavior::contiguous:
        if (pending_ && pending_match_ == match) {
          pending_range_.end = range.end;
          return;
        }
        break;
      case SplitBehavior::merged_with_previous:
        if (pending_ && match && !pending_match_) {
          pending_range_.end = range.end;
          pending_match_ = true;
          return;
        }
        break;
      case SplitBehavior::merged_with_next:
        if (pending_ && !match && pending_match_) {
          pending_range_.end = range.end;
          pending_match_ = false;
          return;
        }
        break;
    }
    finish();
    pending_ = true;
    pending_match_ = match;
    pending_range_ = range;
  }

  void finish() {
    if (pending_) emit_(pending_range_);
    pending_ = false;
  }

 private:
  SplitBehavior behavior_;
  Emit emit_;
  bool pending_ = false, pending_match_ = false;
  TextRange pending_range_;
};

}  // namespace

PrependScheme read_prepend_scheme(const Json& component) {
  // Older files have a boolean instead.
  const bool prefix = json_get_or(component, "add_prefix_space", true);
  const std::string name =
      json_get_or<std::string>(component, "prepend_scheme", prefix ? "always" : "never");
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  if (name == "never") return PrependScheme::never;
  fail("key 'prepend_scheme': '{}'; allowed: always, first, never", name);
}

PreTokenizer PreTokenizer::from_json(const Json& component) {
  PreTokenizer pre_tokenizer;
  if (component.is_null()) return pre_tokenizer;
  pre_tokenizer.append(component);
  require(pre_tokenizer.steps_.size() <= kMaxSteps, "more than {} steps", kMaxSteps);
  // Bytes at the end stay implicit: the model reads bytes faster than their symbols.
  auto& steps = pre_tokenizer.steps_;
  if (!steps.empty() && std::holds_alternative<Bytes>(steps.back())) {
    steps.pop_back();
    pre_tokenizer.byte_level_ = true;
  }
  return pre_tokenizer;
}

void PreTokenizer::append(const Json& component) {
  const std::string type = component_type(component);
  const auto split = [&](Regex pattern, SplitBehavior behavior, bool invert = false) {
    steps_.emplace_back(Split{std::move(pattern), behavior, invert});
  };
  if (type == "Sequence") {
    for_each_component(component, "pretokenizers", [&](const Json& item) { append(item); });
  } else if (type == "ByteLevel") {
    if (json_get_or(component, "add_prefix_space", true)) steps_.emplace_back(PrefixSpace{});
    if (json_get_or(component, "use_regex", true)) {
      split(Regex::compile(kGpt2Pattern), SplitBehavior::isolated);
    }
    steps_.emplace_back(Bytes{});
  } else if (type == "Split") {
    split(component_pattern(component, "pattern"), read_behavior(component, ""),
          json_get_or(component, "invert", false));
  } else if (type == "Digits") {
    const bool individual = json_get_or(component, "individual_digits", false);
    split(Regex::compile(individual ? R"(\p{N})" : R"(\p{N}+)"), SplitBehavior::isolated);
  } else if (type == "Metaspace") {
    const std::string replacement = component_replacement(component);
    steps_.emplace_back(Metaspace{replacement, read_prepend_scheme(component)});
    if (json_get_or(component, "split", true)) {
      split(Regex::literal(replacement), SplitBehavior::merged_with_next);
    }
  } else if (type == "Whitespace") {
    split(Regex::compile(kWordsPattern), SplitBehavior::removed, true);
  } else if (type == "WhitespaceSplit") {
    split(Regex::compile(R"(\s)"), SplitBehavior::removed);
  } else if (type == "Punctuation") {
    split(Regex::compile(kPunctuationPattern), read_behavior(component, "Isolated"));
  } else {
    fail(
        "type '{}' is not supported; supported: Sequence, ByteLevel, Split, Digits, Metaspace, "
        "Whitespace, WhitespaceSplit, Punctuation",
        type);
  }
}

PreTokenizer::Scratch PreTokenizer::make_scratch() const {
  Scratch scratch;
  for (const Step& step : steps_) {
    if (const auto* split = std::get_if<Split>(&step)) {
      scratch.steps_.emplace_back(Regex::Scratch(split->pattern));
    } else {
      scratch.steps_.emplace_back(std::string());
    }
  }
  return scratch;
}

void PreTokenizer::split(Piece piece, Scratch& scratch, const Sink& sink) const {
  if (!piece.text.empty()) run(0, piece, scratch, sink);
}

void PreTokenizer::run(size_t step, Piece piece, Scratch& scratch, const Sink& sink) const {
  if (step == steps_.size()) {
    sink(piece);
    return;
  }
  if (const auto* split = std::get_if<Split>(&steps_[step])) {
    auto& search = std::get<Regex::Scratch>(scratch.steps_[step]);
    Joiner joiner(split->behavior, [&](TextRange range) {
      run(step + 1,
          {piece.text.substr(range.begin, range.end - range.begin),
           piece.starts_text && range.begin == 0},
          scratch, sink);
    });
    size_t done = 0;
    while (const std::optional<TextRange> match = split->pattern.find(piece.text, done, search)) {
      joiner.add({done, match->begin}, split->invert);
      joiner.add(*match, !split->invert);
      done = match->end;
    }
    joiner.add({done, piece.text.size()}, split->invert);
    joiner.finish();
    return;
  }
  std::string& changed = std::get<std::string>(scratch.steps_[step]);
  changed.clear();
  if (std::holds_alternative<PrefixSpace>(steps_[step])) {
    if (piece.text.front() != ' ') changed += ' ';
    changed += piece.text;
  } else if (std::holds_alternative<Bytes>(steps_[step])) {
    changed = to_byte_symbols(piece.text);
  } else {
    const auto& metaspace = std::get<Metaspace>(steps_[step]);
    const bool prepend = metaspace.scheme == PrependScheme::always ||
                         (metaspace.scheme == PrependScheme::first && piece.starts_text);
    const bool marked = piece.text.front() == ' ' || piece.text.starts_with(metaspace.replacement);
    if (prepend && !marked) changed += metaspace.replacement;
    for (size_t done = 0; done < piece.text.size();) {
      const size_t space = std::min(piece.text.find(' ', done), piece.text.size());
      changed += piece.text.substr(done, space - done);
      if (space < piece.text.size()) changed += metaspace.replacement;
      done = space + 1;
    }
  }
  run(step + 1, {changed, piece.starts_text}, scratch, sink);
}

}  // namespace fewbit
