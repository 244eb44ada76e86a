#include "fewbit/model/layer_selection.h"

#include "fewbit/base/error.h"
#include "fewbit/model/wiring.h"

namespace fewbit {
namespace {

// '*' stands for any run of characters, dots included.
bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern.front() == '*') {
    for (size_t skip = 0; skip <= text.size(); ++skip) {
      if (matches(pattern.substr(1), text.substr(skip))) return true;
    }
    return false;
  }
  return !text.empty() && pattern.front() == text.front() &&
         matches(pattern.substr(1), text.substr(1));
}

}  // namespace

LayerSelection::LayerSelection(std::string text) : text_(std::move(text)) {
  size_t begin = 0;
  for (;;) {
    const size_t end = text_.find('+', begin);
    const std::string part =
        text_.substr(begin, end == std::string::npos ? std::string::npos : end - begin);
    require(!part.empty(),
            "option 'layers': '{}' has an empty part; joined by '+' are blocks, "
            "embed, head or patterns such as blocks.*.mlp.down",
            text_);
    patterns_.push_back(part == "blocks" ? "blocks.*" : part);
    if (end == std::string::npos) return;
    begin = end + 1;
  }
}

bool LayerSelection::contains(std::string_view layer) const {
  for (const std::string& pattern : patterns_) {
    if (matches(pattern, layer)) return true;
  }
  return false;
}

void check_selection(const ModelSpec& spec, const LayerSelection& selection) {
  for (const std::string& linear : quantizable_linears(spec)) {
    if (selection.contains(linear)) return;
  }
  if (selection.contains("embed")) return;
  if (selection.contains("head")) {
    require(!spec.tied_head,
            "option 'layers': the head of this model is its embedding; select embed instead");
    return;
  }
  fail(
      "option 'layers': '{}' selects no layer of this model; layers are embed, head and names "
      "such as {}",
      selection.text(), quantizable_linears(spec).front());
}

}  // namespace fewbit
