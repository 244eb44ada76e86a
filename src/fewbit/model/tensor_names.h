// Where the canonical tensors of a model lie inside stored ones: names, fused projections, row
// orders, transposition. The one table serves reading and writing.
//
// A stored tensor, after `transposed` has been undone, is a matrix of rows; canonical row r of the
// tensor is stored row rows.stored_row(r). Vectors (biases, norms) are matrices of one column where
// their rows are reordered.
//   gpt_neox   query_key_value: per head the rows of q, k, v (Hugging Face); q, k, v one after the
//              other in GGUF
//   gpt2       c_attn: q, k, v one after the other; all linears stored [in, out] (Conv1D)
//   llama in GGUF and llama2.c: q and k rows of a head interleaved, stored row h D + 2 i + j is
//              canonical row h D + j D/2 + i
//   mixtral in GGUF: experts stacked in one tensor
//   gemma in GGUF: norms hold 1 + w
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/model/model_spec.h"

namespace fewbit {

// Order of rows in the stored tensor.
struct RowMap {
  enum class Kind { contiguous, per_head, interleaved };
  Kind kind = Kind::contiguous;
  size_t first = 0;            // Rows of the stored tensor that stand before these.
  size_t part = 0, parts = 1;  // per_head: this is part `part` of `parts` in every head.
  size_t head_size = 1;        // per_head, interleaved.

  size_t stored_row(size_t row) const;
};

struct TensorBinding {
  std::string canonical, stored;
  std::vector<size_t> shape;         // Canonical.
  std::vector<size_t> stored_shape;  // As the file has it (row-major, outermost first).
  RowMap rows;
  bool transposed = false;
  float added = 0;  // Stored value = canonical value + added.

  // True if the stored tensor is the canonical one, value by value.
  bool identity() const;
};

// How Hugging Face files prefix the names of one family; `outer` stands before the head's name.
struct NamePrefix {
  std::string_view base, outer;
};
// Known prefixes of the family, the one to write first.
std::span<const NamePrefix> hf_name_prefixes(std::string_view architecture);

// One binding per tensor of model_tensors(spec), in that order.
std::vector<TensorBinding> hf_bindings(const ModelSpec& spec, const NamePrefix& prefix);
std::vector<TensorBinding> gguf_bindings(const ModelSpec& spec);
// llama2c files: one stored tensor holds a matrix of all layers, [layers, out, in].
std::vector<TensorBinding> llama2c_bindings(const ModelSpec& spec);
// Names as they are: fewbit directories.
std::vector<TensorBinding> canonical_bindings(const ModelSpec& spec);

}  // namespace fewbit
