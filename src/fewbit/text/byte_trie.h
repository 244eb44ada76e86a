// A static trie over byte strings: which of a fixed set of strings are prefixes of a text.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fewbit {

class ByteTrie {
 public:
  ByteTrie() = default;
  // Strings with their values (>= 0). Empty strings are left out; of equal strings the last counts.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int32_t>> strings);

  bool empty() const { return nodes_.empty(); }
  // False: no string begins with this byte.
  bool may_start(uint8_t byte) const { return !nodes_.empty() && first_[byte] >= 0; }
  // Calls visit(length, value) for every string that `text` begins with, shortest first.
  template <class Visit>
  void for_each_prefix(std::string_view text, Visit&& visit) const {
    if (text.empty() || nodes_.empty()) return;
    int32_t node = first_[static_cast<uint8_t>(text[0])];
    for (size_t length = 1; node >= 0; ++length) {
      if (nodes_[static_cast<size_t>(node)].value >= 0) {
        visit(length, nodes_[static_cast<size_t>(node)].value);
      }
      if (length == text.size()) return;
      node = child(node, static_cast<uint8_t>(text[length]));
    }
  }

 private:
  struct Node {
    int32_t value = -1;
    // Children stand together, in the order of their bytes.
    int32_t first_child = 0;
    uint16_t children = 0;
    uint8_t byte = 0;
  };
  int32_t child(int32_t node, uint8_t byte) const;

  std::vector<Node> nodes_;
  std::array<int32_t, 256> first_{};
};

}  // namespace fewbit
