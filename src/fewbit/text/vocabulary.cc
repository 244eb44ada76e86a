#include "fewbit/text/vocabulary.h"

#include <functional>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr size_t kFirstSlots = 1024;
constexpr size_t kMaxTokenBytes = size_t{1} << 20;

uint32_t hash_of(std::string_view text) {
  return static_cast<uint32_t>(std::hash<std::string_view>{}(text));
}

}  // namespace

void Vocabulary::set(TokenId id, std::string_view text) {
  require(id >= 0 && static_cast<size_t>(id) < kMaxVocabulary, "token id {} is outside 0 to {}", id,
          kMaxVocabulary - 1);
  require(text.size() <= kMaxTokenBytes, "token {} has {} bytes; at most {}", id, text.size(),
          kMaxTokenBytes);
  if (contains(id)) {
    require(this->text(id) == text, "token id {} stands for both '{}' and '{}'", id, this->text(id),
            text);
    return;
  }
  const auto index = static_cast<size_t>(id);
  if (index >= spans_.size()) spans_.resize(index + 1);
  spans_[index] = {characters_.size(), static_cast<uint32_t>(text.size())};
  characters_ += text;
  ++count_;
  if (slots_.size() < 2 * count_) grow();
  const uint32_t hash = hash_of(text);
  Slot& slot = slots_[slot_of(text, hash)];
  if (slot.id < 0) slot = {hash, id};
}

std::string_view Vocabulary::text(TokenId id) const {
  if (!contains(id)) return {};
  const Span& span = spans_[static_cast<size_t>(id)];
  return std::string_view(characters_).substr(span.begin, span.length);
}

std::optional<TokenId> Vocabulary::find(std::string_view text) const {
  if (slots_.empty()) return std::nullopt;
  const TokenId id = slots_[slot_of(text, hash_of(text))].id;
  if (id < 0) return std::nullopt;
  return id;
}

size_t Vocabulary::slot_of(std::string_view text, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  while (slots_[slot].id >= 0 &&
         (slots_[slot].hash != hash || this->text(slots_[slot].id) != text)) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void Vocabulary::grow() {
  const std::vector<Slot> old = std::move(slots_);
  slots_.assign(old.empty() ? kFirstSlots : 2 * old.size(), {});
  const size_t mask = slots_.size() - 1;
  for (const Slot& moved : old) {
    if (moved.id < 0) continue;
    size_t slot = moved.hash & mask;
    while (slots_[slot].id >= 0) slot = (slot + 1) & mask;
    slots_[slot] = moved;
  }
}

}  // namespace fewbit
