// KvCache: the keys and values that one sequence has left behind, for every block of a decoder.
//
// Everything is sized when the cache is made; memory is committed by the system as positions are
// filled. A block with a window keeps a ring that holds the window and one chunk of new tokens,
// however long the sequence grows.
//
// Positions are stored in tiles of kCacheTile: position p lies in tile (p / kCacheTile) modulo the
// number of tiles. Within one key/value head a tile of keys is [head_size, kCacheTile], one of
// values [kCacheTile, head_size], so that scores and mixtures are both products with contiguous
// rows (cached_attention.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit {

inline constexpr size_t kCacheTile = 64;

// How keys and values are stored. f32 is exact; f16 rounds each to 11 bits.
enum class CacheType { f32, f16 };
// "f32", "f16".
std::string_view cache_type_name(CacheType type);
// Error that lists the names.
CacheType parse_cache_type(std::string_view name);

// One block's keys and values: [kv_heads, tiles, kCacheTile * head_size] elements each.
struct LayerCache {
  CacheType type = CacheType::f16;
  size_t kv_heads = 0, head_size = 0, tiles = 0;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;

  size_t tile_elements() const { return kCacheTile * head_size; }
  size_t tile_of(size_t position) const { return position / kCacheTile % tiles; }
};

class KvCache {
 public:
  // Room for `capacity` positions, of which at most `max_chunk` are added at a time. Error if
  // either is 0 or the sizes overflow.
  KvCache(const ModelSpec& spec, CacheType type, size_t capacity, size_t max_chunk);

  size_t length() const { return length_; }  // Positions held.
  size_t capacity() const { return capacity_; }
  size_t max_chunk() const { return max_chunk_; }
  // Bytes when full.
  uint64_t bytes() const { return bytes_; }
  LayerCache& layer(size_t block) { return layers_[block]; }

  // Counts `count` positions that have been written in every layer. Error beyond the capacity.
  void advance(size_t count);
  // Whether the first `length` positions are still complete: rings have overwritten old ones.
  bool can_truncate(size_t length) const;
  // Forgets all but the first `length` positions. Error unless can_truncate(length).
  void truncate(size_t length);

 private:
  struct Release {
    void operator()(std::byte* memory) const;
  };

  size_t capacity_, max_chunk_, length_ = 0;
  uint64_t bytes_ = 0;
  std::vector<size_t> windows_;
  std::vector<LayerCache> layers_;
  std::vector<std::unique_ptr<std::byte, Release>> memory_;
};

}  // namespace fewbit
