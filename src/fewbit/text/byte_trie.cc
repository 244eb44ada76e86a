#include "fewbit/text/byte_trie.h"

#include <algorithm>

namespace fewbit {

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, int32_t>> strings) {
  first_.fill(-1);
  std::erase_if(strings, [](const auto& entry) { return entry.first.empty(); });
  if (strings.empty()) return;
  std::stable_sort(strings.begin(), strings.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // Level by level: a node owns the range of sorted strings that share its path.
  struct Range {
    int32_t node;
    size_t begin, end, depth;
  };
  nodes_.emplace_back();
  std::vector<Range> level = {{0, 0, strings.size(), 0}};
  while (!level.empty()) {
    std::vector<Range> next;
    for (const Range& range : level) {
      size_t i = range.begin;
      // Strings that end here come first.
      for (; i < range.end && strings[i].first.size() == range.depth; ++i) {
        nodes_[static_cast<size_t>(range.node)].value = strings[i].second;
      }
      nodes_[static_cast<size_t>(range.node)].first_child = static_cast<int32_t>(nodes_.size());
      uint16_t children = 0;
      while (i < range.end) {
        const char byte = strings[i].first[range.depth];
        size_t end = i + 1;
        while (end < range.end && strings[end].first[range.depth] == byte) ++end;
        next.push_back({static_cast<int32_t>(nodes_.size()), i, end, range.depth + 1});
        nodes_.push_back({-1, 0, 0, static_cast<uint8_t>(byte)});
        ++children;
        i = end;
      }
      nodes_[static_cast<size_t>(range.node)].children = children;
    }
    level = std::move(next);
  }
  for (int32_t i = 0; i < nodes_[0].children; ++i) {
    const int32_t node = nodes_[0].first_child + i;
    first_[nodes_[static_cast<size_t>(node)].byte] = node;
  }
}

int32_t ByteTrie::child(int32_t node, uint8_t byte) const {
  const Node& parent = nodes_[static_cast<size_t>(node)];
  const auto begin = nodes_.begin() + parent.first_child, end = begin + parent.children;
  const auto found =
      std::lower_bound(begin, end, byte, [](const Node& a, uint8_t b) { return a.byte < b; });
  return found != end && found->byte == byte ? static_cast<int32_t>(found - nodes_.begin()) : -1;
}

}  // namespace fewbit
