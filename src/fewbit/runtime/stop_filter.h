// StopFilter: ends a growing text at the first stop string, and never lets any part of one out.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fewbit {

class StopFilter {
 public:
  // Empty stop strings are an Error. Without any, text passes as it comes.
  explicit StopFilter(std::vector<std::string> stops);

  // Takes the next piece; returns what can be shown: text that neither is nor may become part of a
  // stop string. The stop that begins first wins, among those the first given. Nothing comes out
  // once stopped().
  std::string push(std::string_view text);
  // What is held back, when no more text comes.
  std::string finish();

  // The stop string that ended the text.
  const std::optional<std::string>& stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::optional<std::string> stopped_;
};

}  // namespace fewbit
