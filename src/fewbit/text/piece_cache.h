// The ids of pieces that were seen before. Natural text repeats itself: nine pieces of ten come
// from here. A full cache is emptied and begins anew; results never depend on its content.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/text/vocabulary.h"

namespace fewbit {

class PieceCache {
 public:
  // Longer pieces do not come back often enough.
  static constexpr size_t kMaxPieceBytes = 48;

  // True and the ids appended to `out`, if the piece is known.
  bool append(std::string_view piece, std::vector<TokenId>& out) const {
    if (slots_.empty()) return false;
    const Slot& slot = slots_[find(piece)];
    if (slot.length == 0) return false;
    const TokenId* ids = ids_.data() + slot.first_id;
    out.insert(out.end(), ids, ids + slot.ids);
    return true;
  }

  // `piece`: not empty, at most kMaxPieceBytes.
  void insert(std::string_view piece, std::span<const TokenId> ids) {
    if (slots_.empty() || used_ == kSlots / 2) {
      slots_.assign(kSlots, {});
      characters_.clear();
      ids_.clear();
      used_ = 0;
    }
    Slot& slot = slots_[find(piece)];
    if (slot.length != 0) return;
    slot = {static_cast<uint32_t>(characters_.size()), static_cast<uint32_t>(ids_.size()),
            static_cast<uint16_t>(piece.size()), static_cast<uint16_t>(ids.size())};
    characters_ += piece;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++used_;
  }

 private:
  // Enough for the distinct words of a large book collection; 1.5 MiB of slots.
  static constexpr size_t kSlots = size_t{1} << 17;
  struct Slot {
    uint32_t first_character = 0, first_id = 0;
    uint16_t length = 0;  // 0: free.
    uint16_t ids = 0;
  };

  size_t find(std::string_view piece) const {
    size_t slot = std::hash<std::string_view>{}(piece) % kSlots;
    while (slots_[slot].length != 0 &&
           std::string_view(characters_.data() + slots_[slot].first_character,
                            slots_[slot].length) != piece) {
      slot = (slot + 1) % kSlots;
    }
    return slot;
  }

  std::vector<Slot> slots_;
  std::string characters_;
  std::vector<TokenId> ids_;
  size_t used_ = 0;
};

}  // namespace fewbit
