#include "fewbit/runtime/packed_model.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/memory.h"
#include "fewbit/base/threads.h"
#include "fewbit/model/decoder_order.h"
#include "fewbit/runtime/cached_attention.h"
#include "fewbit/runtime/rotary_angles.h"
#include "fewbit/runtime/row_ops.h"

namespace fewbit {
namespace {

// Elements that one task of a row-wise operation handles.
constexpr size_t kElementsPerTask = size_t{1} << 15;

// Calls body(row) for every row, in parallel where there is enough to do.
template <class Body>
void for_rows(const Panel& x, const Body& body) {
  const size_t rows_per_task =
      std::max<size_t>(1, kElementsPerTask / std::max<size_t>(1, x.cols()));
  if (x.rows() <= rows_per_task) {
    for (size_t r = 0; r < x.rows(); ++r) body(r);
    return;
  }
  parallel_for_chunks(x.rows(), rows_per_task, [&](size_t first, size_t last) {
    for (size_t r = first; r < last; ++r) body(r);
  });
}

void add_bias(Panel& y, const std::vector<float>& bias) {
  if (bias.empty()) return;
  for_rows(y, [&](size_t r) { add_row(y.row(r), bias.data(), 1.0f); });
}

}  // namespace

// The decoder's operations (decoder_order.h) for one step, on one block after the other.
class PackedModel::Step {
 public:
  Step(const PackedModel& model, std::span<const SequenceRun> runs)
      : model_(model), spec_(model.spec_), runs_(runs) {
    for (const SequenceRun& run : runs) {
      for (size_t t = 0; t < run.tokens.size(); ++t) {
        positions_.push_back(run.cache->length() + t);
      }
    }
  }

  Panel run() {
    Panel x = decoder_embedding(spec_, *this, lookup());
    for (block_ = 0; block_ < spec_.blocks.size(); ++block_) {
      weights_ = &model_.weights_.blocks[block_];
      x = decoder_block(spec_, *this, std::move(x));
    }
    return decoder_final(spec_, *this, wanted(x));
  }

  Panel norm(NormPlace place, const Panel& x) const {
    switch (place) {
      case NormPlace::attention:
        return full_norm(weights_->attention_norm, x);
      case NormPlace::attention_post:
        return full_norm(weights_->attention_post_norm, x);
      case NormPlace::mlp:
        return full_norm(weights_->mlp_norm, x);
      case NormPlace::mlp_post:
        return full_norm(weights_->mlp_post_norm, x);
      case NormPlace::final:
        return full_norm(model_.weights_.final_norm, x);
      case NormPlace::attention_sub:
        return rms_norm(weights_->attention_sub_norm, x);
      case NormPlace::mlp_sub:
        return rms_norm(weights_->mlp_sub_norm, x);
      case NormPlace::q:
      case NormPlace::k:
        break;
    }
    throw std::logic_error("head norms go through head_norm");
  }

  Panel head_norm(NormPlace place, Panel x) const {
    const std::vector<float>& weight =
        (place == NormPlace::q ? weights_->q_norm : weights_->k_norm).weight;
    for_rows(x, [&](size_t r) {
      const std::span<float> row = x.row(r);
      for (size_t i = 0; i < row.size(); i += spec_.head_size) {
        rms_norm_row(row.subspan(i, spec_.head_size), weight, spec_.norm_plus_one, epsilon(),
                     row.data() + i);
      }
    });
    return x;
  }

  Qkv<Panel> project_qkv(const Panel& x) const {
    std::vector<Panel> y = linears({&weights_->q, &weights_->k, &weights_->v}, x);
    return {std::move(y[0]), std::move(y[1]), std::move(y[2])};
  }

  Panel project(Linear which, const Panel& x) const {
    switch (which) {
      case Linear::attention_output:
        return linear(weights_->o, x);
      case Linear::router:
        // A choice: rounding its input could send a token elsewhere.
        return linear(weights_->router, x, Activations::f32);
      case Linear::embed_in:
        return linear(model_.weights_.embed_in, x);
      case Linear::embed_out:
        return linear(model_.weights_.embed_out, x);
    }
    throw std::logic_error("an unknown linear");
  }

  GateUp<Panel> project_gate_up(const Panel& x, size_t expert) const {
    const PackedMlp& mlp = weights_->mlp[expert];
    std::vector<Panel> y = linears({&mlp.gate, &mlp.up}, x);
    return {std::move(y[0]), std::move(y[1])};
  }
  Panel project_up(const Panel& x, size_t expert) const {
    return linear(weights_->mlp[expert].up, x);
  }
  Panel project_down(const Panel& x, size_t expert) const {
    return linear(weights_->mlp[expert].down, x);
  }

  // Rotates, and appends to the caches.
  Qkv<Panel> position(Qkv<Panel> x) {
    if (spec_.positions == Positions::rotary) {
      const RotaryAngles& angles = angles_of(spec_.blocks[block_]);
      rotate(angles, x.q);
      rotate(angles, x.k);
    }
    size_t row = 0;
    for (const SequenceRun& run : runs_) {
      const size_t count = run.tokens.size();
      append_to_cache(run.cache->layer(block_), run.cache->length(),
                      std::as_const(x.k).view().rows_from(row, count),
                      std::as_const(x.v).view().rows_from(row, count));
      row += count;
    }
    return x;
  }

  Panel attend(const Qkv<Panel>& x) const {
    Panel y(x.q.rows(), x.q.cols());
    std::vector<AttentionRun> runs;
    size_t row = 0;
    for (const SequenceRun& run : runs_) {
      const size_t count = run.tokens.size();
      runs.push_back({&run.cache->layer(block_), run.cache->length(),
                      x.q.view().rows_from(row, count), y.view().rows_from(row, count)});
      row += count;
    }
    attend_cached(runs, {spec_.heads, static_cast<float>(spec_.attention_scale_or_default()),
                         static_cast<float>(spec_.attention_softcap.value_or(0)),
                         spec_.blocks[block_].window});
    return y;
  }

  Panel activate(Panel x) const {
    for_rows(x, [&](size_t r) { activate_row(spec_.activation, x.row(r)); });
    return x;
  }
  Panel gate(Panel gate, const Panel& up) const {
    for_rows(gate, [&](size_t r) { gate_row(spec_.activation, gate.row(r), up.row(r).data()); });
    return gate;
  }
  Panel add(Panel x, const Panel& y) const {
    for_rows(x, [&](size_t r) { add_row(x.row(r), y.row(r).data(), 1.0f); });
    return x;
  }
  Panel scale(Panel x, double factor) const {
    for_rows(x, [&](size_t r) { scale_row(x.row(r), static_cast<float>(factor)); });
    return x;
  }

  Panel add_positions(Panel x) const {
    Panel learned(1, x.cols());
    for (size_t r = 0; r < x.rows(); ++r) {
      model_.weights_.positions.dequantize_rows(spec_.position_offset + positions_[r],
                                                learned.view());
      add_row(x.row(r), learned.row(0).data(), 1.0f);
    }
    return x;
  }

  // For each expert the rows routed to it, ascending, with their weights.
  struct Routing {
    struct Choice {
      size_t row;
      float weight;
    };
    std::vector<std::vector<Choice>> experts;
  };
  Routing route(Panel logits) const {
    Routing routing;
    routing.experts.resize(spec_.experts);
    std::vector<size_t> order(spec_.experts);
    for (size_t r = 0; r < logits.rows(); ++r) {
      const std::span<float> p = logits.row(r);
      softmax_row(p);
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::partial_sort(order.begin(), order.begin() + static_cast<long>(spec_.experts_per_token),
                        order.end(),
                        [&](size_t a, size_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); });
      float sum = 0;
      for (size_t k = 0; k < spec_.experts_per_token; ++k) sum += p[order[k]];
      for (size_t k = 0; k < spec_.experts_per_token; ++k) {
        routing.experts[order[k]].push_back({r, p[order[k]] / sum});
      }
    }
    return routing;
  }
  Panel routed_rows(const Routing& routing, size_t expert, const Panel& x) const {
    const std::vector<Routing::Choice>& choices = routing.experts[expert];
    Panel y(choices.size(), x.cols());
    for (size_t i = 0; i < choices.size(); ++i) {
      std::ranges::copy(x.row(choices[i].row), y.row(i).begin());
    }
    return y;
  }
  bool empty(const Panel& x) const { return x.rows() == 0; }
  Panel zeros_like(const Panel& x) const {
    Panel y(x.rows(), x.cols());
    for (size_t r = 0; r < y.rows(); ++r) std::ranges::fill(y.row(r), 0.0f);
    return y;
  }
  Panel add_routed(Panel sum, const Routing& routing, size_t expert, const Panel& y) const {
    const std::vector<Routing::Choice>& choices = routing.experts[expert];
    for (size_t i = 0; i < choices.size(); ++i) {
      add_row(sum.row(choices[i].row), y.row(i).data(), choices[i].weight);
    }
    return sum;
  }

 private:
  float epsilon() const { return static_cast<float>(spec_.norm_epsilon); }

  Panel lookup() const {
    Panel rows(positions_.size(), spec_.embedding_size);
    size_t row = 0;
    for (const SequenceRun& run : runs_) {
      for (const int32_t token : run.tokens) {
        model_.weights_.embed.dequantize_rows(static_cast<size_t>(token),
                                              rows.view().rows_from(row++, 1));
      }
    }
    return rows;
  }

  Panel wanted(const Panel& x) const {
    std::vector<size_t> rows;
    size_t row = 0;
    for (const SequenceRun& run : runs_) {
      row += run.tokens.size();
      for (size_t r = run.all_rows ? row - run.tokens.size() : row - 1; r < row; ++r) {
        rows.push_back(r);
      }
    }
    Panel y(rows.size(), x.cols());
    for (size_t i = 0; i < rows.size(); ++i) std::ranges::copy(x.row(rows[i]), y.row(i).begin());
    return y;
  }

  Panel linear(const PackedLinear& layer, const Panel& x, Activations activations) const {
    Panel y(x.rows(), layer.weight.rows());
    matmul(layer.weight, x.view(), y.view(), activations);
    add_bias(y, layer.bias);
    return y;
  }
  Panel linear(const PackedLinear& layer, const Panel& x) const {
    return linear(layer, x, model_.options_.activations);
  }
  std::vector<Panel> linears(std::initializer_list<const PackedLinear*> layers,
                             const Panel& x) const {
    std::vector<Panel> y;
    std::vector<Product> products;
    y.reserve(layers.size());
    for (const PackedLinear* layer : layers) {
      y.emplace_back(x.rows(), layer->weight.rows());
      products.push_back({&layer->weight, y.back().view()});
    }
    matmul_shared(products, x.view(), model_.options_.activations);
    size_t i = 0;
    for (const PackedLinear* layer : layers) add_bias(y[i++], layer->bias);
    return y;
  }

  Panel full_norm(const NormWeights& weights, const Panel& x) const {
    if (spec_.norm == NormKind::rms) return rms_norm(weights, x);
    Panel y(x.rows(), x.cols());
    for_rows(x, [&](size_t r) {
      layer_norm_row(x.row(r), weights.weight, weights.bias, epsilon(), y.row(r).data());
    });
    return y;
  }
  Panel rms_norm(const NormWeights& weights, const Panel& x) const {
    Panel y(x.rows(), x.cols());
    for_rows(x, [&](size_t r) {
      rms_norm_row(x.row(r), weights.weight, spec_.norm_plus_one, epsilon(), y.row(r).data());
    });
    return y;
  }

  void rotate(const RotaryAngles& angles, Panel& x) const {
    for_rows(x, [&](size_t r) {
      const std::span<float> row = x.row(r);
      for (size_t i = 0; i < row.size(); i += spec_.head_size) {
        rotate_head(angles.cosine(r), angles.sine(r), angles.half(), row.data() + i);
      }
    });
  }
  // Made once for all blocks that turn alike.
  const RotaryAngles& angles_of(const BlockSpec& block) {
    for (const auto& [owner, angles] : angles_) {
      if (same_rotation(*owner, block)) return *angles;
    }
    angles_.emplace_back(&block,
                         std::make_unique<RotaryAngles>(block, spec_.rotary_size, positions_));
    return *angles_.back().second;
  }

  const PackedModel& model_;
  const ModelSpec& spec_;
  std::span<const SequenceRun> runs_;
  std::vector<size_t> positions_;
  size_t block_ = 0;
  const PackedBlock* weights_ = nullptr;
  std::vector<std::pair<const BlockSpec*, std::unique_ptr<RotaryAngles>>> angles_;
};

PackedModel::PackedModel(ModelSpec spec, std::shared_ptr<const TensorSource> tensors,
                         PackedModelOptions options)
    : spec_(std::move(spec)),
      tensors_(std::move(tensors)),
      options_(options),
      weights_(pack_weights(spec_, *tensors_)) {
  require(options_.chunk > 0, "a step of 0 tokens does nothing");
  keep_freed_memory();
}

PackedModel::PackedModel(const Checkpoint& checkpoint, PackedModelOptions options)
    : PackedModel(checkpoint.spec, checkpoint.tensors, options) {
  require(
      checkpoint.activations.is_null(),
      "{}: was trained with quantized activations, which the packed kernels do not imitate; use "
      "the reference engine",
      checkpoint.path.string());
}

KvCache PackedModel::make_cache(size_t capacity) const {
  if (capacity == 0) capacity = spec_.context;
  if (spec_.positions == Positions::learned) {
    const size_t rows = spec_.position_rows - spec_.position_offset;
    require(capacity <= rows, "a sequence of {} tokens is longer than the {} learned positions",
            capacity, rows);
  }
  return KvCache(spec_, options_.cache, capacity, options_.chunk);
}

void PackedModel::check(std::span<const SequenceRun> runs) const {
  require(!runs.empty(), "a step has no tokens");
  for (size_t i = 0; i < runs.size(); ++i) {
    const SequenceRun& run = runs[i];
    const KvCache& cache = *run.cache;
    require(!run.tokens.empty(), "a step has no tokens");
    require(run.tokens.size() <= cache.max_chunk(), "a step of {} tokens (allowed: {})",
            run.tokens.size(), cache.max_chunk());
    require(run.tokens.size() <= cache.capacity() - cache.length(),
            "the context is full: {} tokens and {} more exceed {}", cache.length(),
            run.tokens.size(), cache.capacity());
    for (const int32_t token : run.tokens) {
      require(token >= 0 && static_cast<size_t>(token) < spec_.vocab_size,
              "token {} is outside the vocabulary of {}", token, spec_.vocab_size);
    }
    for (size_t j = 0; j < i; ++j) {
      require(runs[j].cache != run.cache, "a sequence stands twice in one step");
    }
  }
}

Panel PackedModel::run(std::span<const SequenceRun> runs) const {
  check(runs);
  Panel hidden = Step(*this, runs).run();
  for (const SequenceRun& run : runs) run.cache->advance(run.tokens.size());
  return hidden;
}

Panel PackedModel::prefill(KvCache& cache, std::span<const int32_t> tokens) const {
  require(!tokens.empty(), "there are no tokens");
  Panel hidden;
  while (!tokens.empty()) {
    throw_if_interrupted();
    const size_t count = std::min(tokens.size(), cache.max_chunk());
    hidden = run({{&cache, tokens.first(count)}});
    tokens = tokens.subspan(count);
  }
  return hidden;
}

void PackedModel::logits(MatrixView<const float> hidden, MatrixView<float> out) const {
  matmul(weights_.head.weight, hidden, out, options_.activations);
  for (size_t r = 0; r < out.rows(); ++r) {
    if (!weights_.head.bias.empty()) add_row(out.row(r), weights_.head.bias.data(), 1.0f);
    if (spec_.final_softcap) softcap_row(out.row(r), static_cast<float>(*spec_.final_softcap));
  }
}

}  // namespace fewbit
