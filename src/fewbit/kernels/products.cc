// How products are cut into tasks: all outputs of all matrices that share x make one parallel loop.
#include <algorithm>
#include <deque>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/kernels/activation_blocks.h"
#include "fewbit/kernels/packed_contents.h"
#include "fewbit/kernels/panel_products.h"

namespace fewbit {
namespace {

// Rows that are decoded to floats by one task.
constexpr size_t kFloatRowsPerTask = 16;
// One token: a task of few panels costs a fifth of the speed by the gaps between streams, too few
// tasks leave threads idle at the end.
constexpr size_t kMinPanelsPerTask = 2, kMaxPanelsPerTask = 64, kTasksPerThread = 8;
// Several tokens: those that use a decoded panel. Their codes of one decoded block and the task's
// sums share the second-level cache.
constexpr size_t kTokensPerTask = 240;

struct Task {
  const Product* product;
  size_t first, last;  // rows, or panels of an integer product
  size_t first_tile = 0, last_tile = 0;
};

// The inputs of one product.
struct Inputs {
  MatrixView<const float> x;
  std::vector<const QuantizedActivations*> terms;  // empty: floats
};

class ProductPlan {
 public:
  ProductPlan(std::span<const Product> products, MatrixView<const float> x, Activations activations)
      : x_(x), activations_(activations), tile_width_(x.rows() == 1 ? 1 : product_tile_width()) {
    for (const Product& product : products) add(product);
  }

  void run() {
    parallel_for(tasks_.size(), [&](size_t i) { run(tasks_[i], inputs_[tasks_of_[i]]); });
    for (const Product& product : finished_) {
      const PanelSum& panels = std::get<PanelSum>(product.weights->contents().data);
      for (size_t t = 0; t < product.y.rows(); ++t) {
        apply_transform(panels.output, product.y.row(t));
      }
    }
  }

 private:
  void add(const Product& product) {
    const PackedMatrix& weights = *product.weights;
    require(x_.cols() == weights.cols() && product.y.rows() == x_.rows() &&
                product.y.cols() == weights.rows(),
            "a product of [{}, {}] weights with [{}, {}] inputs into [{}, {}] outputs",
            weights.rows(), weights.cols(), x_.rows(), x_.cols(), product.y.rows(),
            product.y.cols());
    Inputs inputs{x_, {}};
    const auto* panels = std::get_if<PanelSum>(&weights.contents().data);
    if (panels) {
      if (!panels->input.is_identity()) inputs.x = transformed(panels->input);
      if (!panels->output.is_identity()) finished_.push_back(product);
    }
    if (panels && activations_ == Activations::int8 && x_.rows() > 0) {
      for (const PanelMatrix& term : panels->terms) {
        inputs.terms.push_back(&quantized(inputs.x, term));
      }
      add_panel_tasks(product, panels->terms.front().panels());
    } else {
      for (size_t first = 0; first < weights.rows(); first += kFloatRowsPerTask) {
        push({&product, first, std::min(first + kFloatRowsPerTask, weights.rows())});
      }
    }
    inputs_.push_back(std::move(inputs));
  }

  void add_panel_tasks(const Product& product, size_t panels) {
    const size_t step = x_.rows() == 1 ? std::clamp(panels / (kTasksPerThread * thread_count()),
                                                    kMinPanelsPerTask, kMaxPanelsPerTask)
                                       : 1;
    const size_t tiles = (x_.rows() + tile_width_ - 1) / tile_width_;
    const size_t tile_step = std::max<size_t>(1, kTokensPerTask / tile_width_);
    for (size_t tile = 0; tile < tiles; tile += tile_step) {
      for (size_t first = 0; first < panels; first += step) {
        push({&product, first, std::min(first + step, panels), tile,
              std::min(tile + tile_step, tiles)});
      }
    }
  }

  void push(const Task& task) {
    tasks_.push_back(task);
    tasks_of_.push_back(inputs_.size());
  }

  MatrixView<const float> transformed(const Transform& input) {
    Matrix& copy = transformed_.emplace_back(x_.rows(), x_.cols());
    parallel_for(x_.rows(), [&](size_t t) {
      std::ranges::copy(x_.row(t), copy.row(t).data());
      apply_transform(input, copy.row(t));
    });
    return std::as_const(copy).view();
  }

  const QuantizedActivations& quantized(MatrixView<const float> x, const PanelMatrix& weights) {
    const size_t unit_columns = weights.format().unit_columns;
    for (const auto& [source, activations] : quantized_) {
      if (source == x.data() && activations.unit_columns() == unit_columns &&
          activations.units() == weights.units()) {
        return activations;
      }
    }
    return quantized_
        .emplace_back(x.data(), QuantizedActivations(x, unit_columns, weights.units(), tile_width_))
        .second;
  }

  void run(const Task& task, const Inputs& inputs) const {
    const PackedMatrix::Contents& weights = task.product->weights->contents();
    const MatrixView<float> y = task.product->y;
    const auto* panels = std::get_if<PanelSum>(&weights.data);
    if (inputs.terms.empty()) {
      if (const auto* rows = std::get_if<FloatRows>(&weights.data)) {
        multiply_float_rows(*rows, task.first, task.last, inputs.x, y);
      } else {
        const auto decode = [&](size_t first_row, MatrixView<float> out) {
          panels->decode_terms(first_row, out);
        };
        multiply_decoded_rows(decode, task.first, task.last, inputs.x, y);
      }
      return;
    }
    const size_t first_token = task.first_tile * tile_width_;
    const size_t tokens = std::min(task.last_tile * tile_width_, x_.rows()) - first_token;
    const size_t first_row = task.first * kPanelHeight;
    const size_t rows = std::min(task.last * kPanelHeight, weights.rows) - first_row;
    Matrix sums(tokens, (task.last - task.first) * kPanelHeight);
    for (size_t k = 0; k < inputs.terms.size(); ++k) {
      const PanelMatrix& term = panels->terms[k];
      if (x_.rows() == 1) {
        multiply_panels(term, task.first, task.last, inputs.terms[k]->tile(0), sums.data());
      } else {
        multiply_panels(term, task.first, task.last, *inputs.terms[k], task.first_tile,
                        task.last_tile, sums.view());
      }
      for (size_t t = 0; t < tokens; ++t) {
        float* target = &y(first_token + t, first_row);
        const float* source = sums.row(t).data();
        if (k == 0) {
          std::copy_n(source, rows, target);
        } else {
          for (size_t r = 0; r < rows; ++r) target[r] += source[r];
        }
      }
    }
  }

  MatrixView<const float> x_;
  Activations activations_;
  size_t tile_width_;
  std::vector<Inputs> inputs_;  // of each product
  std::vector<Task> tasks_;
  std::vector<size_t> tasks_of_;   // the task's product
  std::vector<Product> finished_;  // whose outputs are still to be transformed
  std::deque<Matrix> transformed_;
  std::deque<std::pair<const float*, QuantizedActivations>> quantized_;
};

}  // namespace

void matmul_shared(std::span<const Product> products, MatrixView<const float> x,
                   Activations activations) {
  ProductPlan(products, x, activations).run();
}

void matmul(const PackedMatrix& weights, MatrixView<const float> x, MatrixView<float> y,
            Activations activations) {
  const Product product{&weights, y};
  matmul_shared({&product, 1}, x, activations);
}

void matvec(const PackedMatrix& weights, std::span<const float> x, std::span<float> y,
            Activations activations) {
  matmul(weights, {x.data(), 1, x.size()}, {y.data(), 1, y.size()}, activations);
}

}  // namespace fewbit
