#include "fewbit/runtime/packed_weights.h"

#include <optional>

#include "fewbit/base/error.h"
#include "fewbit/model/stored_rows.h"

namespace fewbit {
namespace {

std::optional<Dtype> dense_type(GgmlType type) {
  switch (type) {
    case GgmlType::f32:
      return Dtype::f32;
    case GgmlType::f16:
      return Dtype::f16;
    case GgmlType::bf16:
      return Dtype::bf16;
    default:
      return std::nullopt;
  }
}

class Packer {
 public:
  Packer(const ModelSpec& spec, const TensorSource& tensors) : spec_(spec), tensors_(tensors) {}

  PackedMatrix matrix(const std::string& layer, Storage storage = Storage::repacked) const {
    return with_context(layer, [&] {
      if (const std::optional<QuantizedMatrix> codes = tensors_.quantized(layer)) {
        return PackedMatrix::from_quantized(*codes);
      }
      const std::string name = layer + ".weight";
      if (const std::optional<StoredRows> rows = stored_rows(tensors_, name)) {
        return from_rows(*rows, storage);
      }
      return PackedMatrix::from_floats(tensors_.load_matrix(name).view());
    });
  }

  PackedLinear linear(const std::string& layer) const {
    return {matrix(layer), optional_vector(layer + ".bias")};
  }
  NormWeights norm(const std::string& layer) const {
    return {tensors_.load(layer + ".weight"), optional_vector(layer + ".bias")};
  }

  PackedMlp mlp(const std::string& prefix) const {
    PackedMlp result;
    if (spec_.gated_mlp) result.gate = linear(prefix + "gate");
    result.up = linear(prefix + "up");
    result.down = linear(prefix + "down");
    return result;
  }

  PackedBlock block(size_t index) const {
    const std::string name = fmt::format("blocks.{}.", index);
    const std::string attention = name + "attn.", mlp_name = name + "mlp.";
    PackedBlock result;
    result.attention_norm = norm(name + "attn_norm");
    result.mlp_norm = norm(name + "mlp_norm");
    if (spec_.post_norms) {
      result.attention_post_norm = norm(name + "attn_post_norm");
      result.mlp_post_norm = norm(name + "mlp_post_norm");
    }
    if (spec_.attention_sub_norm) result.attention_sub_norm = norm(attention + "sub_norm");
    if (spec_.mlp_sub_norm) result.mlp_sub_norm = norm(mlp_name + "sub_norm");
    if (spec_.qk_norm) {
      result.q_norm = norm(attention + "q_norm");
      result.k_norm = norm(attention + "k_norm");
    }
    result.q = linear(attention + "q");
    result.k = linear(attention + "k");
    result.v = linear(attention + "v");
    result.o = linear(attention + "o");
    if (spec_.experts == 0) {
      result.mlp.push_back(mlp(mlp_name));
    } else {
      result.router = linear(mlp_name + "router");
      for (size_t expert = 0; expert < spec_.experts; ++expert) {
        result.mlp.push_back(mlp(fmt::format("{}experts.{}.", mlp_name, expert)));
      }
    }
    return result;
  }

  PackedWeights all() const {
    PackedWeights result;
    result.embed = matrix("embed", spec_.tied_head ? Storage::repacked : Storage::borrowed);
    if (spec_.positions == Positions::learned) {
      result.positions = matrix("positions", Storage::borrowed);
    }
    if (spec_.embedding_size != spec_.hidden_size) {
      result.embed_in = linear("embed_project_in");
      result.embed_out = linear("embed_project_out");
    }
    for (size_t i = 0; i < spec_.blocks.size(); ++i) result.blocks.push_back(block(i));
    if (spec_.final_norm) result.final_norm = norm("final_norm");
    result.head.weight = spec_.tied_head ? result.embed : matrix("head");
    result.head.bias = optional_vector("head.bias");
    return result;
  }

 private:
  static PackedMatrix from_rows(const StoredRows& rows, Storage storage) {
    std::span<const std::byte> bytes = rows.contiguous();
    std::vector<std::byte> ordered;
    if (bytes.empty()) {
      ordered.reserve(rows.rows * rows.row_bytes);
      for (size_t r = 0; r < rows.rows; ++r) {
        const std::span<const std::byte> row = rows.row(r);
        ordered.insert(ordered.end(), row.begin(), row.end());
      }
      bytes = ordered;
      storage = Storage::repacked;
    }
    if (const std::optional<Dtype> dense = dense_type(rows.type)) {
      return PackedMatrix::from_dense(*dense, rows.rows, rows.cols, bytes, storage);
    }
    return PackedMatrix::from_ggml(rows.type, rows.rows, rows.cols, bytes, storage);
  }

  // A spec that a transform has given biases needs no flag for them: what is stored is used.
  std::vector<float> optional_vector(const std::string& name) const {
    return tensors_.contains(name) ? tensors_.load(name) : std::vector<float>();
  }

  const ModelSpec& spec_;
  const TensorSource& tensors_;
};

}  // namespace

PackedWeights pack_weights(const ModelSpec& spec, const TensorSource& tensors) {
  spec.validate();
  check_tensors(spec, tensors);
  return Packer(spec, tensors).all();
}

uint64_t PackedWeights::bytes_per_token(const ModelSpec& spec) const {
  uint64_t bytes = head.weight.bytes() + embed_in.weight.bytes() + embed_out.weight.bytes();
  for (const PackedBlock& block : blocks) {
    bytes += block.q.weight.bytes() + block.k.weight.bytes() + block.v.weight.bytes() +
             block.o.weight.bytes() + block.router.weight.bytes();
    uint64_t experts = 0;
    for (const PackedMlp& mlp : block.mlp) {
      experts += mlp.gate.weight.bytes() + mlp.up.weight.bytes() + mlp.down.weight.bytes();
    }
    bytes += spec.experts == 0 ? experts : experts / spec.experts * spec.experts_per_token;
  }
  return bytes;
}

}  // namespace fewbit
