// The order of operations of a decoder, written once for everything that runs one: network/
// instantiates it over at::Tensor, runtime/ over packed weights and a KV cache.
//
// `Ops` is bound to one block (or to embedding and head). With Value a movable handle of
// activations
// [.., features] it supplies:
//   Value norm(NormPlace, const Value& x)
//   Qkv<Value> project_qkv(const Value& x)           one input, three products, biases included
//   Value head_norm(NormPlace q or k, const Value&)  RMSNorm over head_size
//   Qkv<Value> position(Qkv<Value>)                  rotates q and k (and appends to a cache)
//   Value attend(const Qkv<Value>&)
//   Value project(Linear, const Value& x)
//   GateUp<Value> project_gate_up(const Value& x, size_t expert)
//   Value project_up(const Value& x, size_t expert), project_down(const Value& x, size_t expert)
//   Value activate(Value x), gate(Value gate, Value up)
//   Value add(Value x, const Value& y), scale(Value x, double factor), add_positions(Value x)
//   Routing route(const Value& logits)               softmax, top k, renormalised
//   Value routed_rows(const Routing&, size_t expert, const Value& x)
//   bool empty(const Value& rows)
//   Value zeros_like(const Value&)
//   Value add_routed(Value sum, const Routing&, size_t expert, const Value& y)
// Experts are numbered from 0, and a dense MLP is expert 0. Sites of statistics and activation
// quantization are announced by Ops, inside the operation that reads them.
#pragma once

#include <cstddef>
#include <utility>

#include "fewbit/model/model_spec.h"

namespace fewbit {

enum class NormPlace {
  attention,
  attention_post,
  attention_sub,
  q,
  k,
  mlp,
  mlp_post,
  mlp_sub,
  final
};
// Linears outside the MLP's experts.
enum class Linear { attention_output, router, embed_in, embed_out };

template <class Value>
struct Qkv {
  Value q, k, v;
};
template <class Value>
struct GateUp {
  Value gate, up;
};

// Attention of one block on its already normed input.
template <class Ops, class Value>
Value attention_branch(const ModelSpec& spec, Ops& ops, const Value& x) {
  Qkv<Value> qkv = ops.project_qkv(x);
  if (spec.qk_norm) {
    qkv.q = ops.head_norm(NormPlace::q, std::move(qkv.q));
    qkv.k = ops.head_norm(NormPlace::k, std::move(qkv.k));
  }
  Value mixed = ops.attend(ops.position(std::move(qkv)));
  if (spec.attention_sub_norm) mixed = ops.norm(NormPlace::attention_sub, mixed);
  Value y = ops.project(Linear::attention_output, mixed);
  if (spec.post_norms) y = ops.norm(NormPlace::attention_post, y);
  return y;
}

// One dense MLP, or one expert of a mixture.
template <class Ops, class Value>
Value mlp_body(const ModelSpec& spec, Ops& ops, const Value& x, size_t expert) {
  Value inner;
  if (spec.gated_mlp) {
    GateUp<Value> both = ops.project_gate_up(x, expert);
    inner = ops.gate(std::move(both.gate), std::move(both.up));
  } else {
    inner = ops.activate(ops.project_up(x, expert));
  }
  if (spec.mlp_sub_norm) inner = ops.norm(NormPlace::mlp_sub, inner);
  return ops.project_down(inner, expert);
}

// MLP of one block on its already normed input.
template <class Ops, class Value>
Value mlp_branch(const ModelSpec& spec, Ops& ops, const Value& x) {
  Value y;
  if (spec.experts == 0) {
    y = mlp_body(spec, ops, x, 0);
  } else {
    const auto routing = ops.route(ops.project(Linear::router, x));
    y = ops.zeros_like(x);
    for (size_t expert = 0; expert < spec.experts; ++expert) {
      const Value rows = ops.routed_rows(routing, expert, x);
      if (ops.empty(rows)) continue;
      y = ops.add_routed(std::move(y), routing, expert, mlp_body(spec, ops, rows, expert));
    }
  }
  if (spec.post_norms) y = ops.norm(NormPlace::mlp_post, y);
  return y;
}

// One block: the residual stream in, the residual stream out.
template <class Ops, class Value>
Value decoder_block(const ModelSpec& spec, Ops& ops, Value x) {
  if (!spec.norm_first) {
    x = ops.norm(NormPlace::attention, ops.add(x, attention_branch(spec, ops, x)));
    return ops.norm(NormPlace::mlp, ops.add(x, mlp_branch(spec, ops, x)));
  }
  Value attended = attention_branch(spec, ops, ops.norm(NormPlace::attention, x));
  if (spec.parallel_residual) {
    Value fed = mlp_branch(spec, ops, ops.norm(NormPlace::mlp, x));
    return ops.add(ops.add(std::move(x), attended), fed);
  }
  x = ops.add(std::move(x), attended);
  Value fed = mlp_branch(spec, ops, ops.norm(NormPlace::mlp, x));
  return ops.add(std::move(x), fed);
}

// From looked-up token rows to the residual stream.
template <class Ops, class Value>
Value decoder_embedding(const ModelSpec& spec, Ops& ops, Value rows) {
  if (spec.embedding_scale != 1) rows = ops.scale(std::move(rows), spec.embedding_scale);
  if (spec.embedding_size != spec.hidden_size) rows = ops.project(Linear::embed_in, rows);
  if (spec.positions == Positions::learned) rows = ops.add_positions(std::move(rows));
  return rows;
}

// From the residual stream to what the head reads.
template <class Ops, class Value>
Value decoder_final(const ModelSpec& spec, Ops& ops, Value x) {
  if (spec.final_norm) x = ops.norm(NormPlace::final, x);
  if (spec.embedding_size != spec.hidden_size) x = ops.project(Linear::embed_out, x);
  return x;
}

}  // namespace fewbit
