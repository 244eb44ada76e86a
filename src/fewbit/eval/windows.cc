#include "fewbit/eval/windows.h"

#include <algorithm>
#include <array>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/options.h"

namespace fewbit {
namespace {

constexpr std::array<std::pair<WindowRule, std::string_view>, 7> kRules{
    {{WindowRule::concat_no_bos, "concat_no_bos"},
     {WindowRule::concat_stream_bos, "concat_stream_bos"},
     {WindowRule::window_bos, "window_bos"},
     {WindowRule::second_half_bos, "second_half_bos"},
     {WindowRule::second_half_no_bos, "second_half_no_bos"},
     {WindowRule::strided, "strided"},
     {WindowRule::rolling_prefix, "rolling_prefix"}}};

bool is_second_half(WindowRule rule) {
  return rule == WindowRule::second_half_bos || rule == WindowRule::second_half_no_bos;
}

// Rules whose stream is [BOS] + t.
bool has_stream_bos(WindowRule rule) {
  return rule == WindowRule::concat_stream_bos || rule == WindowRule::second_half_bos;
}

}  // namespace

std::string_view window_rule_name(WindowRule rule) {
  for (const auto& [known, name] : kRules) {
    if (known == rule) return name;
  }
  throw std::logic_error("unnamed window rule");
}

WindowRule parse_window_rule(std::string_view name) {
  for (const auto& [rule, known] : kRules) {
    if (known == name) return rule;
  }
  fail("window rule '{}' is not known: {}", name, join_choices(window_rule_names()));
}

std::vector<std::string> window_rule_names() {
  std::vector<std::string> names;
  for (const auto& [rule, name] : kRules) names.emplace_back(name);
  return names;
}

bool window_rule_needs_bos(WindowRule rule) {
  return has_stream_bos(rule) || rule == WindowRule::window_bos ||
         rule == WindowRule::rolling_prefix;
}

WindowPlan::WindowPlan(std::span<const int32_t> tokens, const WindowOptions& options)
    : WindowPlan(std::span(&tokens, 1), options) {}

WindowPlan::WindowPlan(std::span<const std::span<const int32_t>> documents,
                       const WindowOptions& options)
    : documents_(documents.begin(), documents.end()), options_(options) {
  const std::string_view name = window_rule_name(options.rule);
  const size_t least = is_second_half(options.rule) ? 3 : 2;
  constexpr size_t kLongestContext = size_t{1} << 24;
  require(options.context >= least && options.context <= kLongestContext,
          "context {}: rule {} needs {} to {}", options.context, name, least, kLongestContext);
  require(options.bos.has_value() || !window_rule_needs_bos(options.rule),
          "rule {} needs a BOS token and the model names none; give one, or use a rule without "
          "({}, {}, {})",
          name, window_rule_name(WindowRule::concat_no_bos),
          window_rule_name(WindowRule::second_half_no_bos), window_rule_name(WindowRule::strided));
  if (options_.rule == WindowRule::strided) {
    if (options_.stride == 0) options_.stride = std::max<size_t>(1, options_.context / 2);
    require(options_.stride <= options_.context,
            "stride {}: must be 1 to the context, {}, or tokens would be left out", options_.stride,
            options_.context);
  } else {
    require(options_.stride == 0, "a stride is for rule {} only, not for {}",
            window_rule_name(WindowRule::strided), name);
  }

  require(!documents_.empty(), "no text to evaluate");
  first_window_.push_back(0);
  for (size_t d = 0; d < documents_.size(); ++d) {
    const size_t tokens = documents_[d].size();
    const size_t stream = tokens + (has_stream_bos(options_.rule) ? 1 : 0);
    size_t needed = options_.context;
    if (is_second_half(options_.rule) && !options_.allow_single_window) {
      needed = 2 * options_.context;
    }
    if (options_.rule == WindowRule::window_bos) needed = options_.context - 1;
    if (options_.rule == WindowRule::strided) needed = 2;
    if (options_.rule == WindowRule::rolling_prefix) needed = 1;
    require(stream >= needed,
            "the text has {} tokens{}: rule {} with a context of {} needs at least {}", stream,
            documents_.size() > 1 ? fmt::format(" in document {}", d) : "", name, options_.context,
            needed);
    first_window_.push_back(first_window_.back() + windows_of(tokens));
  }
  count_ = first_window_.back();
  if (options_.max_windows > 0) count_ = std::min(count_, options_.max_windows);
}

size_t WindowPlan::windows_of(size_t tokens) const {
  const size_t length = options_.context;
  switch (options_.rule) {
    case WindowRule::concat_no_bos:
    case WindowRule::second_half_no_bos:
      return tokens / length;
    case WindowRule::concat_stream_bos:
    case WindowRule::second_half_bos:
      return (tokens + 1) / length;
    case WindowRule::window_bos:
      return tokens / (length - 1);
    case WindowRule::rolling_prefix:
      return (tokens + length - 1) / length;
    case WindowRule::strided: {
      if (tokens <= length) return 1;
      const size_t stride = options_.stride;
      size_t count = 1 + (tokens - length + stride - 1) / stride;
      // With S = L the last slice may be a single token, which predicts nothing.
      if ((count - 1) * stride + 1 == tokens) --count;
      return count;
    }
  }
  throw std::logic_error("unnamed window rule");
}

WindowPlan::Extent WindowPlan::extent(size_t tokens, size_t index) const {
  const size_t length = options_.context;
  switch (options_.rule) {
    case WindowRule::concat_no_bos:
      return {index * length, (index + 1) * length - 1, false, false, length - 1};
    case WindowRule::second_half_no_bos:
      return {index * length, (index + 1) * length - 1, false, false, length - 1 - length / 2};
    case WindowRule::concat_stream_bos:
    case WindowRule::second_half_bos: {
      // Slice index of [BOS] + t is t[index * L - 1, (index + 1) * L - 1).
      const bool second_half = options_.rule == WindowRule::second_half_bos;
      Extent e;
      e.begin = index == 0 ? 0 : index * length - 1;
      e.end = (index + 1) * length - 2;
      e.bos_before = index == 0;
      e.bos_over = second_half && index > 0;
      e.targets = second_half ? length - 1 - length / 2 : length - 1;
      return e;
    }
    case WindowRule::window_bos: {
      const size_t begin = index * (length - 1);
      return {begin, begin + length - 2, true, false, length - 1};
    }
    case WindowRule::strided: {
      const size_t begin = index * options_.stride;
      const size_t end = std::min(begin + length, tokens);
      const size_t reached = index == 0 ? 0 : begin - options_.stride + length;
      return {begin, end - 1, false, false, std::min(end - reached, end - begin - 1)};
    }
    case WindowRule::rolling_prefix: {
      const size_t first = index * length;
      const size_t end = std::min(first + length, tokens);  // One past the last target.
      if (index == 0) return {0, end - 1, true, false, end};
      return {end - 1 - length, end - 1, false, false, end - first};
    }
  }
  throw std::logic_error("unnamed window rule");
}

Window WindowPlan::window(size_t index) const {
  require(index < count_, "window {} of {}", index, count_);
  const auto next = std::upper_bound(first_window_.begin(), first_window_.end(), index);
  Window window;
  window.document = static_cast<size_t>(next - first_window_.begin()) - 1;
  const std::span<const int32_t> tokens = documents_[window.document];
  const Extent e = extent(tokens.size(), index - first_window_[window.document]);
  window.input.reserve(e.end - e.begin + 1);
  if (e.bos_before) window.input.push_back(*options_.bos);
  window.input.insert(window.input.end(), tokens.begin() + e.begin, tokens.begin() + e.end);
  if (e.bos_over) window.input.front() = *options_.bos;
  window.first_row = window.input.size() - e.targets;
  window.first_target = e.end + 1 - e.targets;
  window.targets.assign(tokens.begin() + window.first_target, tokens.begin() + e.end + 1);
  return window;
}

uint64_t WindowPlan::tokens() const {
  uint64_t sum = 0;
  for (const auto& document : documents_) sum += document.size();
  return sum;
}

uint64_t WindowPlan::scored_tokens() const {
  uint64_t sum = 0;
  for (size_t d = 0, index = 0; d < documents_.size() && index < count_; ++d) {
    for (; index < std::min(count_, first_window_[d + 1]); ++index) {
      sum += extent(documents_[d].size(), index - first_window_[d]).targets;
    }
  }
  return sum;
}

size_t WindowPlan::longest_input() const {
  size_t longest = 0;
  for (size_t d = 0, index = 0; d < documents_.size() && index < count_; ++d) {
    for (; index < std::min(count_, first_window_[d + 1]); ++index) {
      const Extent e = extent(documents_[d].size(), index - first_window_[d]);
      longest = std::max(longest, e.end - e.begin + (e.bos_before ? 1 : 0));
    }
  }
  return longest;
}

std::string WindowPlan::token_hash() const {
  std::vector<std::byte> bytes;
  bytes.reserve(tokens() * 4);
  for (const auto& document : documents_) {
    for (const int32_t token : document) {
      for (unsigned shift = 0; shift < 32; shift += 8) {
        bytes.push_back(static_cast<std::byte>((static_cast<uint32_t>(token) >> shift) & 0xffu));
      }
    }
  }
  return sha256_hex(bytes);
}

}  // namespace fewbit
