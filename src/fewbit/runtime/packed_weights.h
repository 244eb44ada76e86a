// The weights of a decoder as the packed kernels read them, whatever checkpoint they come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/kernels/packed_matrix.h"
#include "fewbit/model/model_spec.h"
#include "fewbit/model/tensor_source.h"

namespace fewbit {

struct PackedLinear {
  PackedMatrix weight;
  std::vector<float> bias;  // Empty: none.
};

struct NormWeights {
  std::vector<float> weight, bias;  // An empty bias is none.
};

// One dense MLP, or one expert; `gate` is empty unless the model's MLP is gated.
struct PackedMlp {
  PackedLinear gate, up, down;
};

struct PackedBlock {
  NormWeights attention_norm, attention_post_norm, attention_sub_norm, q_norm, k_norm;
  NormWeights mlp_norm, mlp_post_norm, mlp_sub_norm;
  PackedLinear q, k, v, o;
  PackedLinear router;         // Of mixtures.
  std::vector<PackedMlp> mlp;  // One, or as many as experts.
};

struct PackedWeights {
  PackedMatrix embed, positions;
  PackedLinear embed_in, embed_out;  // Where the embedding is projected.
  std::vector<PackedBlock> blocks;
  NormWeights final_norm;
  PackedLinear head;  // A tied head shares the bytes of `embed`.

  // Bytes that the products of one token read.
  uint64_t bytes_per_token(const ModelSpec& spec) const;
};

// Codes stay codes: linears that are stored quantized, in ggml blocks or as 16-bit floats keep
// their values exactly. Rows of an embedding that is no head are read from the file in place, so
// `tensors` must outlive the result. Error that names the tensor that is missing or does not fit.
PackedWeights pack_weights(const ModelSpec& spec, const TensorSource& tensors);

}  // namespace fewbit
