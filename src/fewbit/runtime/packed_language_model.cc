#include "fewbit/runtime/packed_language_model.h"

#include <algorithm>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"

namespace fewbit {
namespace {

class PackedResult : public ForwardResult {
 public:
  PackedResult(std::shared_ptr<const PackedModel> model, Panel hidden)
      : model_(std::move(model)), hidden_(std::move(hidden)) {}

  size_t rows() const override { return hidden_.rows(); }
  void logits(size_t first, MatrixView<float> out) override {
    require(first + out.rows() <= rows() && out.cols() == model_->spec().vocab_size,
            "logits: rows {} to {} of {}, {} columns of {}", first, first + out.rows(), rows(),
            out.cols(), model_->spec().vocab_size);
    model_->logits(std::as_const(hidden_).view().rows_from(first, out.rows()), out);
  }

 private:
  std::shared_ptr<const PackedModel> model_;
  Panel hidden_;
};

}  // namespace

PackedLanguageModel::PackedLanguageModel(std::shared_ptr<const PackedModel> model)
    : model_(std::move(model)) {}

std::unique_ptr<ForwardResult> PackedLanguageModel::forward(MatrixView<const int32_t> tokens) {
  require(tokens.size() > 0, "forward: there are no tokens");
  const size_t length = tokens.cols();
  if (!cache_ || cache_->capacity() != length) {
    cache_ = std::make_unique<KvCache>(model_->make_cache(length));
  }
  Panel hidden;
  for (size_t b = 0; b < tokens.rows(); ++b) {
    throw_if_interrupted();
    cache_->truncate(0);
    for (size_t first = 0; first < length;) {
      const size_t count = std::min(length - first, cache_->max_chunk());
      const Panel rows =
          model_->run({{cache_.get(), tokens.row(b).subspan(first, count), /*all_rows=*/true}});
      if (hidden.rows() == 0) hidden = Panel(tokens.size(), rows.cols());
      for (size_t r = 0; r < count; ++r) {
        std::ranges::copy(rows.row(r), hidden.row(b * length + first + r).begin());
      }
      first += count;
    }
  }
  return std::make_unique<PackedResult>(model_, std::move(hidden));
}

}  // namespace fewbit
