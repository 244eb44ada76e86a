#include "fewbit/network/decoder.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/model/decoder_order.h"
#include "fewbit/network/fused_block.h"

namespace fewbit {
namespace {

constexpr std::string_view kEmbed = "embed", kHead = "head", kHeadInput = "head.input";

// Thrown through the order of operations when a run has reached BlockHooks::stop_at: the template
// has no way out of its middle, and need not have one for this.
struct StopRun {};

const at::Tensor& parameter(const ParameterMap& parameters, std::string_view name) {
  const auto found = parameters.find(name);
  require(found != parameters.end() && found->second.defined(),
          "parameter {} is missing from the map", name);
  return found->second;
}

BlockInfo block_info(const ModelSpec& spec, size_t block, std::vector<Step> steps) {
  BlockInfo info;
  info.name = fmt::format("blocks.{}", block);
  info.parameters = block_tensors(spec, block);
  const std::string prefix = info.name + ".attn.";
  for (Step& step : steps) {
    const bool after_attention = step.site == prefix + "o.input";
    if (after_attention) {
      for (const char* name : {"q_unrotated", "k_unrotated", "v_heads", "q_rotated", "k_rotated"}) {
        info.sites.push_back(prefix + name);
      }
    }
    info.sites.push_back(step.site);
    if (after_attention) info.sites.push_back(prefix + "output");
  }
  info.sites.push_back(info.name + ".output");
  info.steps = std::move(steps);
  return info;
}

}  // namespace

// The decoder's operations on tensors, for one run of one block.
class Decoder::Run {
 public:
  Run(const Decoder& decoder, std::string prefix, size_t block, const ParameterMap& parameters,
      const BlockHooks& hooks)
      : decoder_(decoder),
        spec_(decoder.spec_),
        prefix_(std::move(prefix)),
        block_(block),
        parameters_(parameters),
        hooks_(hooks) {
    for (const auto& [name, value] : hooks.known) {
      if (prefix_.empty() || !name.starts_with(prefix_)) continue;
      require(name == prefix_ + "attn.output" && value.defined(),
              "site {}: its value cannot be known beforehand; allowed: blocks.I.attn.output", name);
      known_attention_ = value;
    }
  }

  // Announces a value; the caller goes on with what comes back.
  at::Tensor site(std::string_view name, at::Tensor value) const {
    if (!hooks_.at_site) return value;
    const std::string full = prefix_ + std::string(name);
    value = hooks_.at_site(full, value);
    if (!hooks_.stop_at.empty() && full == hooks_.stop_at) throw StopRun{};
    return value;
  }

  // The whole block in one operation, where nobody looks inside and it is of the common kind;
  // otherwise undefined.
  at::Tensor fused(const at::Tensor& x) const {
    if (hooks_.at_site || !fused_block_fits(spec_)) return {};
    for (const char* layer : {"attn_norm", "attn.q", "attn.k", "attn.v", "attn.o", "mlp_norm",
                              "mlp.gate", "mlp.up", "mlp.down"}) {
      if (bias(layer).defined()) return {};
    }
    const FusedBlockWeights weights{weight("attn_norm"), weight("attn.q"), weight("attn.k"),
                                    weight("attn.v"),    weight("attn.o"), weight("mlp_norm"),
                                    weight("mlp.gate"),  weight("mlp.up"), weight("mlp.down")};
    if (!fused_block_takes(x, weights)) return {};
    return fused_block(spec_, block_, x, weights,
                       decoder_.rotary(block_, static_cast<size_t>(x.size(1))));
  }

  at::Tensor norm(NormPlace place, const at::Tensor& x) const {
    switch (place) {
      case NormPlace::attention:
        if (attention_is_known() && spec_.norm_first) return {};
        return full_norm("attn_norm", x);
      case NormPlace::attention_post:
        return full_norm("attn_post_norm", x);
      case NormPlace::mlp:
        return full_norm("mlp_norm", x);
      case NormPlace::mlp_post:
        return full_norm("mlp_post_norm", x);
      case NormPlace::final:
        return full_norm("final_norm", x);
      case NormPlace::attention_sub:
        if (attention_is_known()) return {};
        return plain_norm("attn.sub_norm", x);
      case NormPlace::mlp_sub:
        return plain_norm("mlp.sub_norm", x);
      case NormPlace::q:
      case NormPlace::k:
        break;
    }
    throw std::logic_error("head norms go through head_norm");
  }

  at::Tensor head_norm(NormPlace place, const at::Tensor& x) const {
    if (attention_is_known()) return {};
    return plain_norm(place == NormPlace::q ? "attn.q_norm" : "attn.k_norm", x);
  }

  Qkv<at::Tensor> project_qkv(const at::Tensor& normed) const {
    if (attention_is_known()) return {};
    const at::Tensor x = site("attn.input", normed);
    const std::vector<at::Tensor> y = linears({"attn.q", "attn.k", "attn.v"}, x);
    return {heads(y[0]), heads(y[1]), heads(y[2])};
  }

  at::Tensor project(Linear which, const at::Tensor& x) const {
    switch (which) {
      case Linear::attention_output:
        if (attention_is_known()) return known_attention_;
        return site("attn.output", linear("attn.o", site("attn.o.input", x)));
      case Linear::router:
        return linear("mlp.router", x);
      case Linear::embed_in:
        return linear("embed_project_in", x);
      case Linear::embed_out:
        return linear("embed_project_out", x);
    }
    throw std::logic_error("an unknown linear");
  }

  GateUp<at::Tensor> project_gate_up(const at::Tensor& normed, size_t expert) const {
    const at::Tensor x = site(mlp_name(expert, "input"), normed);
    std::vector<at::Tensor> y = linears({mlp_name(expert, "gate"), mlp_name(expert, "up")}, x);
    return {std::move(y[0]), std::move(y[1])};
  }
  at::Tensor project_up(const at::Tensor& normed, size_t expert) const {
    return linear(mlp_name(expert, "up"), site(mlp_name(expert, "input"), normed));
  }
  at::Tensor project_down(const at::Tensor& x, size_t expert) const {
    return linear(mlp_name(expert, "down"), site(mlp_name(expert, "down.input"), x));
  }

  Qkv<at::Tensor> position(Qkv<at::Tensor> x) const {
    if (attention_is_known()) return x;
    x.q = site("attn.q_unrotated", x.q);
    x.k = site("attn.k_unrotated", x.k);
    x.v = site("attn.v_heads", x.v);
    if (spec_.positions == Positions::rotary) {
      const ops::RotaryTable table = decoder_.rotary(block_, static_cast<size_t>(x.q.size(1)));
      x.q = ops::rotate(x.q, table);
      x.k = ops::rotate(x.k, table);
    }
    x.q = site("attn.q_rotated", x.q);
    x.k = site("attn.k_rotated", x.k);
    return x;
  }

  at::Tensor attend(const Qkv<at::Tensor>& x) const {
    if (attention_is_known()) return {};
    const ops::AttentionOptions options{spec_.attention_scale_or_default(), spec_.attention_softcap,
                                        spec_.blocks[block_].window};
    return ops::attend(x.q, x.k, x.v, options).flatten(2);
  }

  at::Tensor activate(const at::Tensor& x) const { return ops::activate(x, spec_.activation); }
  at::Tensor gate(const at::Tensor& gate, const at::Tensor& up) const {
    return ops::gated_activation(gate, up, spec_.activation);
  }

  // In place where nothing else can see x.
  at::Tensor add(at::Tensor x, const at::Tensor& y) const {
    const bool own = x.use_count() == 1 && x.storage().use_count() == 1;
    if (own && !at::GradMode::is_enabled()) return x.add_(y);
    return x + y;
  }
  at::Tensor scale(const at::Tensor& x, double factor) const { return x * factor; }

  at::Tensor add_positions(const at::Tensor& x) const {
    const int64_t length = x.size(1);
    const size_t rows = spec_.position_rows - spec_.position_offset;
    require(static_cast<size_t>(length) <= rows,
            "a sequence of {} tokens is longer than the {} learned positions", length, rows);
    const at::Tensor& table = parameter(parameters_, "positions.weight");
    return x + table.narrow(0, static_cast<int64_t>(spec_.position_offset), length);
  }

  // Mixture of experts: which rows go to which expert, and with which weight.
  struct Routing {
    at::Tensor experts;  // [rows, experts_per_token]
    at::Tensor weights;  // The same shape; each row sums to one.
  };
  Routing route(const at::Tensor& logits) const {
    const at::Tensor probabilities = at::softmax(logits.flatten(0, -2), -1);
    const auto [weights, experts] =
        probabilities.topk(static_cast<int64_t>(spec_.experts_per_token), -1);
    return {experts, weights / weights.sum(-1, /*keepdim=*/true)};
  }
  at::Tensor routed_rows(const Routing& routing, size_t expert, const at::Tensor& x) const {
    return x.flatten(0, -2).index_select(0, chosen(routing, expert).select(1, 0));
  }
  bool empty(const at::Tensor& x) const { return x.size(0) == 0; }
  at::Tensor add_routed(const at::Tensor& sum, const Routing& routing, size_t expert,
                        const at::Tensor& y) const {
    const at::Tensor at = chosen(routing, expert);
    const at::Tensor rows = at.select(1, 0), slots = at.select(1, 1);
    const at::Tensor weights = routing.weights.index({rows, slots}).unsqueeze(1);
    return sum.flatten(0, -2).index_add(0, rows, y * weights).view(sum.sizes());
  }
  at::Tensor zeros_like(const at::Tensor& x) const { return at::zeros_like(x); }

 private:
  // (row, slot) pairs of an expert, rows ascending.
  static at::Tensor chosen(const Routing& routing, size_t expert) {
    return (routing.experts == static_cast<int64_t>(expert)).nonzero();
  }

  // The operations of an attention whose output is known pass undefined values along.
  bool attention_is_known() const { return known_attention_.defined(); }

  std::string mlp_name(size_t expert, const char* part) const {
    if (spec_.experts == 0) return std::string("mlp.") + part;
    return fmt::format("mlp.experts.{}.{}", expert, part);
  }

  at::Tensor weight(std::string_view layer) const {
    return parameter(parameters_, fmt::format("{}{}.weight", prefix_, layer));
  }
  // Undefined if the map holds none: a spec that a transform has given biases needs no more.
  at::Tensor bias(std::string_view layer) const {
    const auto found = parameters_.find(fmt::format("{}{}.bias", prefix_, layer));
    return found == parameters_.end() ? at::Tensor() : found->second;
  }

  at::Tensor linear(std::string_view layer, const at::Tensor& x) const {
    return ops::linear(x, weight(layer), bias(layer));
  }
  // Linears of one input.
  std::vector<at::Tensor> linears(const std::vector<std::string>& layers,
                                  const at::Tensor& x) const {
    std::vector<at::Tensor> weights, biases;
    for (const std::string& layer : layers) {
      weights.push_back(weight(layer));
      biases.push_back(bias(layer));
    }
    return ops::linears(x, weights, biases);
  }
  at::Tensor full_norm(std::string_view layer, const at::Tensor& x) const {
    if (spec_.norm == NormKind::rms) return plain_norm(layer, x);
    return ops::layer_norm(x, weight(layer), bias(layer), spec_.norm_epsilon);
  }
  at::Tensor plain_norm(std::string_view layer, const at::Tensor& x) const {
    return ops::rms_norm(x, weight(layer), spec_.norm_epsilon, spec_.norm_plus_one);
  }
  at::Tensor heads(const at::Tensor& x) const {
    const int64_t size = static_cast<int64_t>(spec_.head_size);
    return x.view({x.size(0), x.size(1), x.size(2) / size, size});
  }

  const Decoder& decoder_;
  const ModelSpec& spec_;
  const std::string prefix_;
  const size_t block_;
  const ParameterMap& parameters_;
  const BlockHooks& hooks_;
  at::Tensor known_attention_;
};

Decoder::Decoder(ModelSpec spec, std::shared_ptr<const TensorSource> tensors, at::Device device)
    : spec_(std::move(spec)), tensors_(std::move(tensors)), device_(device) {
  spec_.validate();
  if (tensors_) check_tensors(spec_, *tensors_);
  wiring_ = wiring_of(spec_);
  blocks_.push_back({std::string(kEmbed), {}, embedding_tensors(spec_), {}});
  for (size_t block = 0; block < spec_.blocks.size(); ++block) {
    blocks_.push_back(block_info(spec_, block, wiring_.blocks[block].steps));
  }
  BlockInfo head{std::string(kHead), {wiring_.head}, head_tensors(spec_), {wiring_.head.site}};
  if (spec_.tied_head) head.parameters.push_back(embedding_tensors(spec_)[0]);
  blocks_.push_back(std::move(head));
}

ParameterMap Decoder::load_parameters(size_t block) const {
  return fewbit::load_parameters(blocks_.at(block).parameters, tensors_, device_);
}

BlockState Decoder::run(size_t block, const BlockState& state, const ParameterMap& parameters,
                        const BlockHooks& hooks) const {
  require(block < blocks_.size(), "block {} is not within 0 to {}", block, blocks_.size() - 1);
  require(state.value.defined(), "block {}: the input is undefined", blocks_[block].name);
  BlockState next{{}, state.side};
  try {
    if (block == 0) {
      const at::Tensor rows = ops::embed(parameter(parameters, "embed.weight"), state.value);
      Run run(*this, "", 0, parameters, hooks);
      next.value = decoder_embedding(spec_, run, rows);
    } else if (block + 1 < blocks_.size()) {
      Run run(*this, blocks_[block].name + ".", block - 1, parameters, hooks);
      next.value = run.fused(state.value);
      if (!next.value.defined()) {
        next.value = run.site("output", decoder_block(spec_, run, state.value));
      }
    } else {
      next.value = logits(final_hidden(state.value, parameters, hooks), parameters);
    }
  } catch (const StopRun&) {
    next.value = at::Tensor();
  }
  return next;
}

at::Tensor Decoder::hidden_states(const at::Tensor& tokens, const ParameterMap& parameters,
                                  const BlockHooks& hooks) const {
  BlockState state{tokens, {}};
  for (size_t block = 0; block + 1 < blocks_.size(); ++block) {
    state = run(block, state, parameters, hooks);
  }
  return final_hidden(state.value, parameters, hooks);
}

at::Tensor Decoder::final_hidden(const at::Tensor& hidden, const ParameterMap& parameters,
                                 const BlockHooks& hooks) const {
  Run run(*this, "", 0, parameters, hooks);
  return run.site(kHeadInput, decoder_final(spec_, run, hidden));
}

const at::Tensor& Decoder::head_weight(const ParameterMap& parameters) const {
  return parameter(parameters, spec_.tied_head ? "embed.weight" : "head.weight");
}

ops::HeadOptions Decoder::head_options(const ParameterMap& parameters) const {
  ops::HeadOptions options;
  if (spec_.head_bias) options.bias = parameter(parameters, "head.bias");
  options.softcap = spec_.final_softcap;
  return options;
}

at::Tensor Decoder::logits(const at::Tensor& hidden, const ParameterMap& parameters) const {
  const ops::HeadOptions options = head_options(parameters);
  at::Tensor logits = ops::linear(hidden, head_weight(parameters), options.bias);
  if (options.softcap) logits = (logits / *options.softcap).tanh() * *options.softcap;
  return logits;
}

at::Tensor Decoder::loss_sum(const at::Tensor& hidden, const at::Tensor& targets,
                             const ParameterMap& parameters) const {
  return ops::cross_entropy_sum(hidden, head_weight(parameters), targets, head_options(parameters));
}

ops::RotaryTable Decoder::rotary(size_t block, size_t length) const {
  const BlockSpec& wanted = spec_.blocks[block];
  const std::lock_guard lock(tables_mutex_);
  for (const CachedTable& cached : tables_) {
    const BlockSpec& have = cached.block;
    if (cached.length == length && have.rope_base == wanted.rope_base &&
        have.rope_scaling == wanted.rope_scaling) {
      return cached.table;
    }
  }
  // A few lengths alternate at most (a corpus and its last, shorter window).
  constexpr size_t kKeptTables = 8;
  if (tables_.size() >= kKeptTables) tables_.erase(tables_.begin());
  ops::RotaryTable table = ops::rotary_table(wanted, spec_.rotary_size, 0, length);
  table.cosine = table.cosine.to(device_);
  table.sine = table.sine.to(device_);
  tables_.push_back({wanted, length, table});
  return table;
}

ParameterMap load_parameters(const std::vector<TensorSpec>& tensors,
                             const std::shared_ptr<const TensorSource>& source, at::Device device,
                             Sharing sharing) {
  require(source != nullptr, "this model has no stored tensors to load");
  ParameterMap parameters;
  for (const TensorSpec& tensor : tensors) {
    const std::vector<int64_t> shape(tensor.shape.begin(), tensor.shape.end());
    if (sharing == Sharing::share) {
      const std::span<const float> mapped = source->borrow(tensor.name);
      if (!mapped.empty()) {
        // The mapping lives as long as its source, which the deleter holds.
        void* data = const_cast<float*>(mapped.data());
        at::Tensor shared = at::from_blob(
            data, shape, [source](void*) {}, at::kFloat);
        parameters.emplace(tensor.name, shared.to(device));
        continue;
      }
    }
    at::Tensor values = at::empty(shape, at::kFloat);
    source->load(tensor.name,
                 std::span(values.data_ptr<float>(), static_cast<size_t>(values.numel())));
    parameters.emplace(tensor.name, values.to(device));
  }
  return parameters;
}

}  // namespace fewbit
