#include "fewbit/model/wiring.h"

#include <charconv>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr std::string_view kBlockPrefix = "blocks.";

void fold_into_norm(Step& step, std::string norm) {
  step.fold = FoldKind::norm;
  step.partner = std::move(norm);
}

void fold_into_rows(Step& step, std::string linear) {
  step.fold = FoldKind::rows;
  step.partner = std::move(linear);
}

// Whether a positive scale of the up rows reaches the input of down unchanged: through the gate's
// product, or through ReLU, which commutes with it.
bool up_scale_passes(const ModelSpec& spec) {
  return spec.gated_mlp || spec.activation == Activation::relu;
}

// The steps of a dense MLP, or of one expert, whose layer names begin with `prefix`.
void add_mlp_steps(const ModelSpec& spec, const std::string& prefix, const std::string& norm,
                   const std::string& block_output, BlockWiring& wiring) {
  Step input;
  input.site = prefix + "input";
  if (spec.gated_mlp) input.linears.push_back(prefix + "gate");
  input.linears.push_back(prefix + "up");
  input.in_features = spec.hidden_size;
  if (spec.norm_first) fold_into_norm(input, norm);
  input.readers = input.linears;
  input.module_output = block_output;

  Step down;
  down.site = prefix + "down.input";
  down.linears = {prefix + "down"};
  down.in_features = spec.ffn_size;
  if (spec.mlp_sub_norm) {
    fold_into_norm(down, prefix + "sub_norm");
  } else if (up_scale_passes(spec)) {
    fold_into_rows(down, prefix + "up");
  }
  down.readers = down.linears;
  wiring.residual_writers.push_back(prefix + "down");
  wiring.steps.push_back(std::move(input));
  wiring.steps.push_back(std::move(down));
}

}  // namespace

BlockWiring block_wiring(const ModelSpec& spec, size_t block) {
  require(block < spec.blocks.size(), "block {} is not within 0 to {}", block,
          spec.blocks.size() - 1);
  const std::string prefix = fmt::format("blocks.{}.", block);
  BlockWiring wiring;

  Step qkv;
  qkv.site = prefix + "attn.input";
  qkv.linears = {prefix + "attn.q", prefix + "attn.k", prefix + "attn.v"};
  qkv.in_features = spec.hidden_size;
  if (spec.norm_first) fold_into_norm(qkv, prefix + "attn_norm");
  qkv.readers = qkv.linears;
  qkv.module_output = prefix + "attn.output";

  Step o;
  o.site = prefix + "attn.o.input";
  o.linears = {prefix + "attn.o"};
  o.in_features = spec.heads * spec.head_size;
  if (spec.attention_sub_norm) {
    fold_into_norm(o, prefix + "attn.sub_norm");
  } else {
    fold_into_rows(o, prefix + "attn.v");
  }
  o.readers = o.linears;

  wiring.residual_readers = qkv.linears;
  wiring.residual_writers = o.linears;
  wiring.steps = {std::move(qkv), std::move(o)};

  const std::string norm = prefix + "mlp_norm";
  // Nothing stands behind the MLP of a block, so its output is the stream's.
  const std::string block_output = prefix + "output";
  if (spec.experts == 0) {
    add_mlp_steps(spec, prefix + "mlp.", norm, block_output, wiring);
    const Step& input = wiring.steps[2];
    wiring.residual_readers.insert(wiring.residual_readers.end(), input.linears.begin(),
                                   input.linears.end());
    return wiring;
  }
  for (size_t expert = 0; expert < spec.experts; ++expert) {
    add_mlp_steps(spec, fmt::format("{}mlp.experts.{}.", prefix, expert), norm, block_output,
                  wiring);
  }
  // All experts and the router read one normed input, so a scale of it concerns all of them.
  std::vector<std::string> readers = {prefix + "mlp.router"};
  for (size_t s = 2; s < wiring.steps.size(); s += 2) {
    readers.insert(readers.end(), wiring.steps[s].linears.begin(), wiring.steps[s].linears.end());
  }
  for (size_t s = 2; s < wiring.steps.size(); s += 2) wiring.steps[s].readers = readers;
  wiring.residual_readers.insert(wiring.residual_readers.end(), readers.begin(), readers.end());
  return wiring;
}

Wiring wiring_of(const ModelSpec& spec) {
  Wiring wiring;
  for (size_t block = 0; block < spec.blocks.size(); ++block) {
    wiring.blocks.push_back(block_wiring(spec, block));
  }
  wiring.head.site = "head.input";
  wiring.head.linears = {"head"};
  wiring.head.in_features = spec.embedding_size;
  wiring.head.readers = wiring.head.linears;
  if (spec.final_norm && spec.norm_first && spec.embedding_size == spec.hidden_size) {
    fold_into_norm(wiring.head, "final_norm");
  }
  wiring.embedding = {spec.embedding_size == spec.hidden_size ? "embed.weight"
                                                              : "embed_project_in.weight"};
  if (spec.positions == Positions::learned) wiring.embedding.push_back("positions.weight");
  if (!spec.norm_first) {
    wiring.rotation_obstacle = "norms stand on the residual stream itself (norm_first = false)";
  } else if (spec.post_norms) {
    wiring.rotation_obstacle = "norms stand between o, down and the residual stream (post_norms)";
  }
  return wiring;
}

const Step& step_of(const Wiring& wiring, std::string_view layer) {
  if (layer == "head") return wiring.head;
  if (const auto block = block_index(layer); block && *block < wiring.blocks.size()) {
    for (const Step& step : wiring.blocks[*block].steps) {
      for (const std::string& linear : step.linears) {
        if (linear == layer) return step;
      }
    }
  }
  fail("'{}' is no quantizable linear of this model; a name looks like blocks.3.attn.q", layer);
}

size_t partner_row(const ModelSpec& spec, const Step& step, size_t column) {
  require(column < step.in_features, "{}: column {} is not below {}", step.site, column,
          step.in_features);
  if (step.fold == FoldKind::rows && step.partner.ends_with("attn.v")) {
    const size_t head = column / spec.head_size;
    const size_t kv_head = head / (spec.heads / spec.kv_heads);
    return kv_head * spec.head_size + column % spec.head_size;
  }
  return column;
}

std::vector<std::string> quantizable_linears(const ModelSpec& spec) {
  std::vector<std::string> linears;
  for (size_t block = 0; block < spec.blocks.size(); ++block) {
    for (const Step& step : block_wiring(spec, block).steps) {
      linears.insert(linears.end(), step.linears.begin(), step.linears.end());
    }
  }
  return linears;
}

std::optional<size_t> block_index(std::string_view name) {
  if (!name.starts_with(kBlockPrefix)) return std::nullopt;
  size_t index = 0;
  const char* first = name.data() + kBlockPrefix.size();
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(first, last, index);
  if (error != std::errc() || end == first || end == last || *end != '.') return std::nullopt;
  return index;
}

}  // namespace fewbit
