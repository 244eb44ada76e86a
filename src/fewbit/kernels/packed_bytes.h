// Memory of packed weights: aligned, zeroed, and asked for in huge pages where it is large, so that
// a stream through it costs few address translations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fewbit {

class PackedBytes {
 public:
  PackedBytes() = default;
  explicit PackedBytes(size_t size);
  PackedBytes(const PackedBytes& other);
  PackedBytes& operator=(const PackedBytes& other) { return *this = PackedBytes(other); }
  PackedBytes(PackedBytes&&) = default;
  PackedBytes& operator=(PackedBytes&&) = default;

  size_t size() const { return size_; }
  uint8_t* data() { return bytes_.get(); }
  const uint8_t* data() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* bytes) const;
  };
  size_t size_ = 0;
  std::unique_ptr<uint8_t[], Free> bytes_;
};

}  // namespace fewbit
