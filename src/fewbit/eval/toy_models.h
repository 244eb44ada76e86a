// Language models for this room's tests: logits that are a plain function of the tokens.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "fewbit/model/language_model.h"

namespace fewbit::testing {

// Logits of `position` after the tokens up to and including it, written into the row.
using ToyLogits = std::function<void(std::span<const int32_t> prefix, std::span<float> row)>;

class ToyModel : public LanguageModel {
 public:
  ToyModel(size_t vocabulary, ToyLogits logits) : logits_(std::move(logits)) {
    spec_.vocab_size = vocabulary;
  }
  const ModelSpec& spec() const override { return spec_; }
  std::unique_ptr<ForwardResult> forward(MatrixView<const int32_t> tokens) override {
    return std::make_unique<Result>(*this, tokens);
  }

 private:
  class Result : public ForwardResult {
   public:
    Result(const ToyModel& model, MatrixView<const int32_t> tokens)
        : model_(model), length_(tokens.cols()) {
      for (size_t b = 0; b < tokens.rows(); ++b) {
        tokens_.insert(tokens_.end(), tokens.row(b).begin(), tokens.row(b).end());
      }
    }
    size_t rows() const override { return tokens_.size(); }
    void logits(size_t first, MatrixView<float> out) override {
      for (size_t r = 0; r < out.rows(); ++r) {
        const size_t place = first + r, start = place / length_ * length_;
        model_.logits_(std::span(tokens_).subspan(start, place - start + 1), out.row(r));
      }
    }

   private:
    const ToyModel& model_;
    size_t length_;
    std::vector<int32_t> tokens_;
  };

  ModelSpec spec_;
  ToyLogits logits_;
};

}  // namespace fewbit::testing
