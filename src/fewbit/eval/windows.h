// Window rules: how a stream of tokens is cut into forward passes, and which tokens are scored.
//
// Perplexities of one model differ more between rules than between 4-bit methods, so a result
// always names its rule. With t the stream of N ids, L the window and S the stride:
//
//   concat_no_bos       floor(N/L) slices t[iL:(i+1)L]; the last L-1 tokens of each are scored
//   concat_stream_bos   the same on [BOS] + t
//   window_bos          floor(N/(L-1)) slices of L-1 tokens, each behind a BOS; all are scored
//   second_half_bos     slices of [BOS] + t whose first token is overwritten by BOS; only targets
//                       L/2+1 .. L-1 are scored (llama.cpp)
//   second_half_no_bos  the same on t, nothing overwritten
//   strided             slices begin at 0, S, 2S, ... until one reaches N; each scores the tokens
//                       that the slice before it has not reached
//   rolling_prefix      every token is scored once, the first behind the prefix token, later ones
//                       behind at most L tokens (lm-evaluation-harness, context_len = 1)
//
// A window's last token is a target only, so it is left out of the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

enum class WindowRule {
  concat_no_bos,
  concat_stream_bos,
  window_bos,
  second_half_bos,
  second_half_no_bos,
  strided,
  rolling_prefix
};
std::string_view window_rule_name(WindowRule rule);
// Error that lists the names.
WindowRule parse_window_rule(std::string_view name);
std::vector<std::string> window_rule_names();
// Whether the rule puts WindowOptions::bos into the input.
bool window_rule_needs_bos(WindowRule rule);

struct WindowOptions {
  WindowRule rule = WindowRule::concat_no_bos;
  size_t context = 2048;  // L, at least 2 (3 for the second-half rules).
  size_t stride = 0;      // S of `strided`, 1..L; 0: L / 2.
  // BOS, or the prefix of rolling_prefix; required by the rules that need it.
  std::optional<int32_t> bos;
  size_t max_windows = 0;  // Keep only the first windows; 0: all.
  // Second-half rules: accept a text of a single window (a base file may hold one).
  bool allow_single_window = false;
};

// One forward pass: row first_row + i of the model's outputs on `input` predicts targets[i].
struct Window {
  size_t document = 0;
  std::vector<int32_t> input;
  size_t first_row = 0;
  std::vector<int32_t> targets;  // first_row + targets.size() == input.size()
  size_t first_target = 0;       // Place of targets[0] in the document.
};

// The windows of a stream, or of several documents one after another, made when asked for.
class WindowPlan {
 public:
  // Errors: a document too short for one window (for two under the second-half rules, as llama.cpp
  // demands), a missing BOS, a context or stride out of range. The documents are borrowed.
  WindowPlan(std::span<const std::span<const int32_t>> documents, const WindowOptions& options);
  WindowPlan(std::span<const int32_t> tokens, const WindowOptions& options);

  size_t size() const { return count_; }
  Window window(size_t index) const;
  const WindowOptions& options() const { return options_; }
  uint64_t tokens() const;         // N over all documents.
  uint64_t scored_tokens() const;  // Over all kept windows.
  size_t longest_input() const;
  // SHA-256 of the ids of all documents as little-endian int32.
  std::string token_hash() const;

 private:
  // Where a window lies in a document, before any token is copied.
  struct Extent {
    size_t begin = 0, end = 0;  // Input tokens t[begin:end) ...
    bool bos_before = false;    // ... behind a BOS,
    bool bos_over = false;      // or with the first overwritten by it.
    size_t targets = 0;         // The last ones of t[.., end + 1).
  };
  size_t windows_of(size_t tokens) const;
  Extent extent(size_t tokens, size_t index) const;

  std::vector<std::span<const int32_t>> documents_;
  std::vector<size_t> first_window_;  // Of each document, and the total.
  WindowOptions options_;
  size_t count_ = 0;
};

}  // namespace fewbit
