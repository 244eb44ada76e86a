#include "fewbit/model/stored_source.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/log.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/stored_floats.h"
#include "fewbit/model/stored_rows.h"

namespace fewbit {
namespace {

// Elements decoded by one task: enough to hide its start, few enough to share the work evenly.
constexpr size_t kElementsPerTask = size_t{1} << 16;

size_t product(std::span<const size_t> shape) {
  size_t elements = 1;
  for (const size_t size : shape) elements *= size;
  return elements;
}

// Buffers and derived tables that some files carry, and parts of multimodal files that are no
// decoder.
bool carries_nothing(std::string_view name) {
  constexpr std::array<std::string_view, 6> kSuffixes = {"rotary_emb.inv_freq",   "attention.bias",
                                                         "attention.masked_bias", "attn.bias",
                                                         "attn.masked_bias",      "lm_head.weight"};
  constexpr std::array<std::string_view, 4> kPrefixes = {"vision_tower.", "multi_modal_projector.",
                                                         "model.vision_tower.",
                                                         "model.multi_modal_projector."};
  return std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); }) ||
         std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); }) ||
         name == "rope_freqs.weight";
}

class BoundSource : public TensorSource, public StoredRowsSource {
 public:
  BoundSource(std::shared_ptr<const TensorContainer> container, std::vector<TensorBinding> bindings,
              std::set<std::string, std::less<>> used)
      : container_(std::move(container)) {
    for (TensorBinding& binding : bindings) {
      require(container_->contains(binding.stored), "{}: tensor {} is missing ({})",
              container_->what(), binding.stored, binding.canonical);
      const TensorInfo stored = container_->info(binding.stored);
      require(stored.shape == binding.stored_shape, "{}: tensor {}: shape [{}] should be [{}] ({})",
              container_->what(), binding.stored, fmt::join(stored.shape, ", "),
              fmt::join(binding.stored_shape, ", "), binding.canonical);
      used.insert(binding.stored);
      names_.push_back(binding.canonical);
      bindings_.emplace(binding.canonical, std::move(binding));
    }
    warn_of_unused(used);
  }

  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override {
    return bindings_.find(name) != bindings_.end();
  }

  TensorInfo info(std::string_view name) const override {
    const TensorBinding& binding = at(name);
    TensorInfo information = container_->info(binding.stored);
    const size_t stored_elements = information.elements();
    information.shape = binding.shape;
    // A part's share of a fused tensor.
    information.stored_bytes =
        information.stored_bytes / stored_elements * information.elements() +
        information.stored_bytes % stored_elements * information.elements() / stored_elements;
    return information;
  }

  std::span<const float> borrow(std::string_view name) const override {
    const TensorBinding& binding = at(name);
    if (binding.added != 0 || binding.transposed) return {};
    if (binding.rows.kind != RowMap::Kind::contiguous) return {};
    const std::span<const float> stored = container_->floats(binding.stored);
    if (stored.empty()) return {};
    const size_t columns = binding.shape.size() < 2 ? 1 : binding.shape.back();
    return stored.subspan(binding.rows.first * columns, product(binding.shape));
  }

  std::optional<StoredRows> stored_rows(std::string_view name) const override {
    const TensorBinding& binding = at(name);
    if (binding.added != 0 || binding.transposed || binding.shape.size() != 2) return std::nullopt;
    const std::string stored_type = container_->info(binding.stored).stored_type;
    for (const GgmlTypeInfo& type : ggml_types()) {
      if (type.name != stored_type) continue;
      const size_t cols = binding.shape[1];
      return StoredRows{type.type,
                        binding.shape[0],
                        cols,
                        ggml_bytes(type.type, cols),
                        container_->bytes(binding.stored),
                        binding.rows};
    }
    return std::nullopt;
  }

  using TensorSource::load;
  void load(std::string_view name, std::span<float> out) const override {
    const TensorBinding& binding = at(name);
    require(out.size() == product(binding.shape), "tensor {}: {} elements asked for, {} present",
            name, out.size(), product(binding.shape));
    with_context(container_->what(), [&] {
      if (binding.shape.size() < 2) {
        load_vector(binding, out);
      } else if (binding.transposed) {
        load_transposed(binding, out);
      } else {
        load_rows(binding, out);
      }
    });
    if (binding.added != 0) {
      for (float& value : out) value -= binding.added;
    }
  }

 private:
  const TensorBinding& at(std::string_view name) const {
    const auto found = bindings_.find(name);
    require(found != bindings_.end(), "{}: tensor {} is missing", container_->what(), name);
    return found->second;
  }

  void load_vector(const TensorBinding& binding, std::span<float> out) const {
    std::vector<float> stored(product(binding.stored_shape));
    container_->decode_rows(binding.stored, 0, {stored.data(), 1, stored.size()});
    for (size_t i = 0; i < out.size(); ++i) out[i] = stored[binding.rows.stored_row(i)];
  }

  void load_rows(const TensorBinding& binding, std::span<float> out) const {
    const size_t columns = binding.shape.back(), rows = out.size() / columns;
    const MatrixView<float> target(out.data(), rows, columns);
    const size_t rows_per_task = std::max<size_t>(1, kElementsPerTask / columns);
    parallel_for_chunks(rows, rows_per_task, [&](size_t first, size_t last) {
      if (binding.rows.kind == RowMap::Kind::contiguous) {
        container_->decode_rows(binding.stored, binding.rows.stored_row(first),
                                target.rows_from(first, last - first));
        return;
      }
      for (size_t row = first; row < last; ++row) {
        container_->decode_rows(binding.stored, binding.rows.stored_row(row),
                                target.rows_from(row, 1));
      }
    });
  }

  // Stored [in, all out]; a task takes some of the stored rows, each of which is a column here.
  void load_transposed(const TensorBinding& binding, std::span<float> out) const {
    const size_t in = binding.stored_shape[0], stored_out = binding.stored_shape[1];
    const size_t rows = binding.shape[0];
    const size_t rows_per_task = std::max<size_t>(1, kElementsPerTask / stored_out);
    parallel_for_chunks(in, rows_per_task, [&](size_t first, size_t last) {
      Matrix panel(last - first, stored_out);
      container_->decode_rows(binding.stored, first, panel.view());
      for (size_t r = 0; r < rows; ++r) {
        const size_t stored_row = binding.rows.stored_row(r);
        for (size_t c = first; c < last; ++c) out[r * in + c] = panel(c - first, stored_row);
      }
    });
  }

  void warn_of_unused(const std::set<std::string, std::less<>>& used) const {
    std::vector<std::string> unused;
    for (std::string& name : container_->names()) {
      if (!used.contains(name) && !carries_nothing(name)) unused.push_back(std::move(name));
    }
    if (!unused.empty()) {
      warn("{}: {} tensors are not used by this architecture and are ignored, among them {}",
           container_->what(), unused.size(), unused.front());
    }
  }

  std::shared_ptr<const TensorContainer> container_;
  std::vector<std::string> names_;
  std::map<std::string, TensorBinding, std::less<>> bindings_;
};

}  // namespace

std::shared_ptr<const TensorSource> bind_tensors(std::shared_ptr<const TensorContainer> container,
                                                 std::vector<TensorBinding> bindings,
                                                 const std::set<std::string, std::less<>>& known) {
  return std::make_shared<BoundSource>(std::move(container), std::move(bindings), known);
}

std::vector<std::vector<TensorBinding>> group_by_stored(std::vector<TensorBinding> bindings) {
  std::vector<std::vector<TensorBinding>> groups;
  std::map<std::string, size_t> group_of;
  for (TensorBinding& binding : bindings) {
    const auto [found, fresh] = group_of.emplace(binding.stored, groups.size());
    if (fresh) groups.emplace_back();
    groups[found->second].push_back(std::move(binding));
  }
  return groups;
}

std::vector<float> load_stored(std::span<const TensorBinding> group, const TensorSource& tensors) {
  if (group.size() == 1 && group[0].identity()) return tensors.load(group[0].canonical);
  std::vector<std::vector<float>> values;
  for (const TensorBinding& part : group) values.push_back(tensors.load(part.canonical));
  return compose_stored(group, values);
}

std::vector<std::byte> encode_floats(Dtype dtype, std::span<const float> values,
                                     const std::string& name) {
  const StoredFloats stored(dtype, values);
  for (size_t i = 0; dtype == Dtype::f16 && i < values.size(); ++i) {
    require(std::isfinite(stored[i]) || !std::isfinite(values[i]),
            "tensor {}: the value {} is beyond the range of f16 (allowed: f32, bf16)", name,
            values[i]);
  }
  return {stored.bytes().begin(), stored.bytes().end()};
}

std::vector<float> compose_stored(std::span<const TensorBinding> parts,
                                  std::span<const std::vector<float>> values) {
  std::vector<float> stored(product(parts[0].stored_shape));
  for (size_t p = 0; p < parts.size(); ++p) {
    const TensorBinding& part = parts[p];
    const size_t rows = part.shape[0];
    const size_t columns = part.shape.size() < 2 ? 1 : part.shape[1];
    const size_t stored_columns = part.stored_shape.back();
    for (size_t r = 0; r < rows; ++r) {
      const size_t stored_row = part.rows.stored_row(r);
      const float* row = values[p].data() + r * columns;
      for (size_t c = 0; c < columns; ++c) {
        const size_t at =
            part.transposed ? c * stored_columns + stored_row : stored_row * columns + c;
        stored[at] = row[c] + part.added;
      }
    }
  }
  return stored;
}

}  // namespace fewbit
