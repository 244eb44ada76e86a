// Checkpoints of llama2.c in its first layout ("legacy", version 0), as named bytes.
//
// Layout: seven i32 (dim, hidden_dim, layers, heads, kv_heads, vocab_size, seq_len), then float32
// arrays in the order of Llama2cFile below, each over all layers. A negative vocab_size says that a
// classifier of its own follows; otherwise the embedding serves as one.
// Source: run.c and export.py of github.com/karpathy/llama2.c.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/file.h"
#include "fewbit/io/safetensors.h"

namespace fewbit {

struct Llama2cHeader {
  size_t dim = 0, hidden_dim = 0, layers = 0, heads = 0, kv_heads = 0, vocab_size = 0, seq_len = 0;
  bool tied = true;

  size_t head_dim() const { return dim / heads; }
  size_t kv_dim() const { return head_dim() * kv_heads; }
};

class Llama2cFile {
 public:
  // The file has no magic number, so every field and the exact size are checked. Errors name the
  // file and the field or size.
  //
  // Copies of stories260K.bin circulate whose matrices were transposed in place, several times:
  // right size, right header, garbage weights. Such a copy is known by its hash, and put right in
  // memory with a warning; repaired() tells.
  static Llama2cFile open(const std::filesystem::path& path);
  // The same over bytes that the caller keeps alive; `what` names them in errors.
  static Llama2cFile parse(std::span<const std::byte> bytes, std::string what);

  const Llama2cHeader& header() const { return header_; }
  bool repaired() const { return repaired_ != nullptr; }

  // F32, in file order: token_embedding [V, dim]; rms_att [L, dim]; wq [L, dim, dim]; wk and wv
  // [L, kv_dim, dim]; wo [L, dim, dim]; rms_ffn [L, dim]; w1 (gate) [L, hidden, dim]; w2 (down)
  // [L, dim, hidden]; w3 (up) [L, hidden, dim]; rms_final [dim]; wcls [V, dim] unless tied. The
  // rotation tables that follow rms_final are left out. Rows of wq and wk are in the order of
  // rotations of adjacent pairs; theta 1e4, eps 1e-5.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // Error if absent.
  const TensorView& tensor(std::string_view name) const;
  // One layer of a tensor whose first extent is layers: "wq" and 2 give "wq[2]" [dim, dim].
  TensorView layer(std::string_view name, size_t index) const;

 private:
  MappedFile file_;
  std::string what_;
  std::shared_ptr<const std::vector<std::byte>> repaired_;
  Llama2cHeader header_;
  std::vector<TensorView> tensors_;
};

}  // namespace fewbit
