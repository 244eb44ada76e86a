#include "fewbit/runtime/kv_cache.h"

#include <algorithm>
#include <new>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr std::align_val_t kAlignment{64};
// More than any machine has; keeps the products below from overflowing.
constexpr uint64_t kMaxLayerBytes = uint64_t{1} << 46;

size_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : 2; }

}  // namespace

std::string_view cache_type_name(CacheType type) { return type == CacheType::f32 ? "f32" : "f16"; }

CacheType parse_cache_type(std::string_view name) {
  if (name == "f32") return CacheType::f32;
  require(name == "f16", "cache type '{}' is not known (allowed: f32, f16)", name);
  return CacheType::f16;
}

void KvCache::Release::operator()(std::byte* memory) const {
  ::operator delete(memory, kAlignment);
}

KvCache::KvCache(const ModelSpec& spec, CacheType type, size_t capacity, size_t max_chunk)
    : capacity_(capacity), max_chunk_(std::min(max_chunk, capacity)) {
  require(capacity > 0 && max_chunk > 0, "a cache of {} positions in chunks of {} holds nothing",
          capacity, max_chunk);
  const uint64_t position_bytes = uint64_t{spec.kv_heads} * spec.head_size * element_bytes(type);
  require(capacity <= kMaxLayerBytes / position_bytes,
          "a cache of {} positions of {} bytes is too large", capacity, position_bytes);
  for (const BlockSpec& block : spec.blocks) {
    // A query at the start of a chunk still sees the window before it.
    const size_t kept = block.window == 0 || block.window >= capacity
                            ? capacity
                            : std::min(capacity, block.window + max_chunk_);
    LayerCache layer;
    layer.type = type;
    layer.kv_heads = spec.kv_heads;
    layer.head_size = spec.head_size;
    layer.tiles = (kept + kCacheTile - 1) / kCacheTile;
    const size_t half = layer.tiles * kCacheTile * position_bytes;
    // Not cleared: pages cost nothing until they are written.
    memory_.emplace_back(static_cast<std::byte*>(::operator new(2 * half, kAlignment)));
    layer.keys = memory_.back().get();
    layer.values = layer.keys + half;
    layers_.push_back(layer);
    windows_.push_back(block.window);
    bytes_ += 2 * half;
  }
}

void KvCache::advance(size_t count) {
  require(count <= capacity_ - length_, "{} positions and {} more exceed the cache of {}", length_,
          count, capacity_);
  length_ += count;
}

bool KvCache::can_truncate(size_t length) const {
  if (length > length_) return false;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const size_t held = layers_[i].tiles * kCacheTile;
    if (length_ <= held) continue;
    // The next query, at `length`, sees the window before it; a ring holds the last `held`.
    const size_t first_seen = length + 1 > windows_[i] ? length + 1 - windows_[i] : 0;
    if (first_seen < length && first_seen < length_ - held) return false;
  }
  return true;
}

void KvCache::truncate(size_t length) {
  require(can_truncate(length), "a cache of {} positions cannot go back to {}", length_, length);
  length_ = length;
}

}  // namespace fewbit
