#include "fewbit/text/bpe.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

constexpr std::string_view kMark = "\u2581";
// Below this a scan for the best pair is faster than a heap.
constexpr size_t kShortWord = 40;
constexpr size_t kFirstSlots = 1024;

}  // namespace

void MergeTable::set(TokenId left, TokenId right, Merge merge) {
  if (slots_.size() < 2 * (used_ + 1)) grow();
  Slot& slot = slots_[slot_of(left, right)];
  if (slot.merge.result < 0) ++used_;
  slot = {left, right, merge};
}

MergeTable::Merge MergeTable::find(TokenId left, TokenId right) const {
  if (slots_.empty()) return {};
  return slots_[slot_of(left, right)].merge;
}

size_t MergeTable::slot_of(TokenId left, TokenId right) const {
  // Fibonacci hashing of the pair; the high half of the product is well mixed.
  const uint64_t key =
      (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  uint64_t hash = key * 0x9e3779b97f4a7c15u;
  hash ^= hash >> 32;
  const size_t mask = slots_.size() - 1;
  size_t slot = static_cast<size_t>(hash * 0x9e3779b97f4a7c15u >> 32) & mask;
  while (slots_[slot].merge.result >= 0 &&
         (slots_[slot].left != left || slots_[slot].right != right)) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void MergeTable::grow() {
  const std::vector<Slot> old = std::move(slots_);
  slots_.assign(old.empty() ? kFirstSlots : 2 * old.size(), {});
  for (const Slot& slot : old) {
    if (slot.merge.result >= 0) slots_[slot_of(slot.left, slot.right)] = slot;
  }
}

BpeModel::BpeModel(std::shared_ptr<const Vocabulary> vocabulary, MergeTable merges,
                   BpeOptions options, Vocabulary extra, TokenId first_extra)
    : vocabulary_(std::move(vocabulary)),
      merges_(std::move(merges)),
      options_(options),
      extra_(std::move(extra)),
      first_extra_(first_extra) {
  for (size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] =
        vocabulary_->find(to_utf8(byte_symbol(static_cast<uint8_t>(byte)))).value_or(-1);
    fallback_ids_[byte] = vocabulary_->find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  for (size_t c = 0; c < ascii_ids_.size(); ++c) {
    ascii_ids_[c] = vocabulary_->find(std::string(1, static_cast<char>(c))).value_or(-1);
  }
  find_cuts();
}

void BpeModel::find_cuts() {
  // A "▁" without a token could be fused with an unknown character before it.
  if (options_.bytes || !vocabulary_->find(kMark)) return;
  cuts_at_marks_ = true;
  const auto text = [&](TokenId id) {
    return id < first_extra_ ? vocabulary_->text(id) : extra_.text(id - first_extra_);
  };
  merges_.for_each([&](TokenId left, TokenId right, MergeTable::Merge) {
    if (text(right).starts_with(kMark) && !text(left).empty()) {
      joined_to_mark_.push_back(last_code_point(text(left)).value);
    }
  });
  std::sort(joined_to_mark_.begin(), joined_to_mark_.end());
  joined_to_mark_.erase(std::unique(joined_to_mark_.begin(), joined_to_mark_.end()),
                        joined_to_mark_.end());
}

void BpeModel::encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  if (!cuts_at_marks_) return encode_word(piece, scratch, out);
  if (options_.ignore_merges) {
    if (const std::optional<TokenId> whole = vocabulary_->find(piece)) {
      out.push_back(*whole);
      return;
    }
  }
  size_t begin = 0;
  for (size_t from = kMark.size(); from < piece.size();) {
    const size_t mark = piece.find(kMark, from);
    if (mark == std::string_view::npos) break;
    from = mark + kMark.size();
    const char32_t before = last_code_point(piece.substr(0, mark)).value;
    if (std::binary_search(joined_to_mark_.begin(), joined_to_mark_.end(), before)) continue;
    encode_word(piece.substr(begin, mark - begin), scratch, out);
    begin = mark;
  }
  encode_word(piece.substr(begin), scratch, out);
}

void BpeModel::encode_word(std::string_view word, Scratch& scratch,
                           std::vector<TokenId>& out) const {
  if (word.empty()) return;
  const bool cacheable = word.size() <= PieceCache::kMaxPieceBytes;
  if (cacheable && scratch.cache.append(word, out)) return;
  const size_t first = out.size();
  compute_word(word, scratch, out);
  if (cacheable) scratch.cache.insert(word, std::span(out).subspan(first));
}

void BpeModel::compute_word(std::string_view word, Scratch& scratch,
                            std::vector<TokenId>& out) const {
  if (options_.ignore_merges && !cuts_at_marks_) {
    const std::optional<TokenId> whole =
        vocabulary_->find(options_.bytes ? to_byte_symbols(word) : std::string(word));
    if (whole) {
      out.push_back(*whole);
      return;
    }
  }
  scratch.ids.clear();
  start_symbols(word, scratch.ids);
  if (merges_.size() == 0) {
    // A vocabulary of bytes or characters.
  } else if (scratch.ids.size() <= kShortWord) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  for (const TokenId id : scratch.ids) {
    if (id < first_extra_) {
      out.push_back(id);
    } else if (!(options_.byte_fallback &&
                 append_fallback_bytes(extra_.text(id - first_extra_), out)) &&
               options_.unknown) {
      out.push_back(*options_.unknown);
    }
  }
}

void BpeModel::start_symbols(std::string_view word, std::vector<TokenId>& ids) const {
  bool last_unknown = false;
  const auto add_unknown = [&](std::string_view character) {
    if (options_.byte_fallback && append_fallback_bytes(character, ids)) {
      last_unknown = false;
      return;
    }
    if (!options_.unknown) return;
    if (!(last_unknown && options_.fuse_unknown)) ids.push_back(*options_.unknown);
    last_unknown = true;
  };
  if (options_.bytes) {
    for (const char c : word) {
      const auto byte = static_cast<uint8_t>(c);
      if (byte_ids_[byte] >= 0) {
        ids.push_back(byte_ids_[byte]);
        last_unknown = false;
      } else {
        add_unknown(to_utf8(byte_symbol(byte)));
      }
    }
    return;
  }
  for (size_t i = 0; i < word.size();) {
    const CodePoint point = decode_utf8(word, i);
    const std::string_view character = word.substr(i, point.length);
    i += point.length;
    TokenId id = -1;
    if (point.value < ascii_ids_.size()) {
      id = ascii_ids_[point.value];
    } else {
      id = vocabulary_->find(character).value_or(-1);
    }
    if (id < 0) {
      if (const std::optional<TokenId> extra = extra_.find(character)) {
        id = first_extra_ + *extra;
      }
    }
    if (id >= 0) {
      ids.push_back(id);
      last_unknown = false;
    } else {
      add_unknown(character);
    }
  }
}

bool BpeModel::append_fallback_bytes(std::string_view character, std::vector<TokenId>& ids) const {
  const auto token = [&](char byte) { return fallback_ids_[static_cast<uint8_t>(byte)]; };
  if (std::any_of(character.begin(), character.end(), [&](char b) { return token(b) < 0; })) {
    return false;
  }
  for (const char byte : character) ids.push_back(token(byte));
  return true;
}

void BpeModel::merge_short(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& pairs = scratch.pairs;  // pairs[i]: the merge of ids[i] and ids[i + 1].
  if (ids.size() < 2) return;
  pairs.clear();
  for (size_t i = 0; i + 1 < ids.size(); ++i) pairs.push_back(merges_.find(ids[i], ids[i + 1]));
  while (!pairs.empty()) {
    const auto best = std::min_element(
        pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
    if (best->result < 0) return;
    const auto i = static_cast<size_t>(best - pairs.begin());
    ids[i] = best->result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(i) + 1);
    pairs.erase(best);
    if (i > 0) pairs[i - 1] = merges_.find(ids[i - 1], ids[i]);
    if (i < pairs.size()) pairs[i] = merges_.find(ids[i], ids[i + 1]);
  }
}

void BpeModel::merge_long(Scratch& scratch) const {
  using Candidate = Scratch::Candidate;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  require(scratch.ids.size() <= static_cast<size_t>(INT32_MAX),
          "a piece of {} symbols is too long to encode", scratch.ids.size());
  const auto count = static_cast<int32_t>(scratch.ids.size());
  symbols.clear();
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({scratch.ids[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  const auto at = [&](int32_t i) -> Scratch::Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto consider = [&](int32_t position) {
    if (position < 0 || at(position).next < 0) return;
    const TokenId left = at(position).id, right = at(at(position).next).id;
    const MergeTable::Merge merge = merges_.find(left, right);
    if (merge.result < 0) return;
    heap.push_back({merge.rank, position, left, right, merge.result});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  for (int32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate best = heap.back();
    heap.pop_back();
    // A symbol that was swallowed has id -1, so that its candidates no longer fit.
    Scratch::Symbol& left = at(best.position);
    if (left.id != best.left || left.next < 0 || at(left.next).id != best.right) continue;
    Scratch::Symbol& right = at(left.next);
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) at(left.next).previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  scratch.ids.clear();
  for (int32_t i = 0; i >= 0; i = at(i).next) scratch.ids.push_back(at(i).id);
}

}  // namespace fewbit
