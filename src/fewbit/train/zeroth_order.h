// Training by forward passes alone: the gradient along a random direction z is the difference of
// two losses, so that the memory is that of inference and no gradient passes a quantizer.
//
//   slope = (L(Q(W + epsilon z)) - L(Q(W - epsilon z))) / (2 epsilon),   W <- W - rate slope z,
//
// z standard normal, the mean over `directions` of them. Both losses are of the same batch, with
// what quantizers have learned held fixed. The model runs block by block, and only one block's
// perturbed weights exist at a time.
//
// Directions are functions of (seed, step, direction, tensor), never stored: a run can be played
// again from its first weights and the slopes alone (replay_direction()).
//
// Sources: MeZO (arXiv 2305.17333), ZeroQAT (2509.00031).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fewbit/model/layer_selection.h"
#include "fewbit/network/decoder.h"
#include "fewbit/train/adamw.h"
#include "fewbit/train/data_order.h"
#include "fewbit/train/network_quantizers.h"

namespace fewbit {

struct ZerothOrder {
  double epsilon = 1e-3;
  size_t directions = 1;
  // Tensors that are moved, by the names of their layers: "blocks.*.attn.q+blocks.*.attn.v" is
  // ZeroQAT's light variant.
  LayerSelection trained = LayerSelection("*");
};

// value += factor z, where z is the direction of that tensor. The same bits for any number of
// threads.
void add_direction(at::Tensor& value, double factor, uint64_t seed, uint64_t step, size_t direction,
                   const std::string& tensor);

class ZerothOrderStep {
 public:
  // All are borrowed; `quantizers` may be null. Error if the selection meets no tensor.
  ZerothOrderStep(const Decoder& decoder, const ZerothOrder& options, ops::MatmulDtype dtype,
                  std::vector<TrainedTensor>& tensors, const NetworkQuantizers* quantizers);

  // Measures the slopes of one batch; returns the mean loss of all passes, nats per token.
  double measure(const TrainingBatch& batch, uint64_t seed, uint64_t step);
  const std::vector<double>& slopes() const { return slopes_; }
  // Share of the codes that differ between the two sides of the last direction: 0.1 to 5 % is a
  // good epsilon. 0 without quantizers.
  double differing_codes() const;
  // Moves the weights along the directions that were measured.
  void apply(double rate, uint64_t seed, uint64_t step);

 private:
  std::pair<double, double> losses(const TrainingBatch& batch, uint64_t seed, uint64_t step,
                                   size_t direction);
  ParameterMap block_parameters(size_t block, double factor, uint64_t seed, uint64_t step,
                                size_t direction) const;

  const Decoder& decoder_;
  ZerothOrder options_;
  ops::MatmulDtype dtype_;
  std::vector<TrainedTensor>& tensors_;
  const NetworkQuantizers* quantizers_;
  std::map<std::string, size_t, std::less<>> place_;                 // of a tensor, by name
  std::map<std::string, const QuantizedLayer*, std::less<>> layer_;  // by the weight's name
  std::vector<bool> moved_;                                          // by tensor
  std::vector<double> slopes_;
  uint64_t differing_ = 0, compared_ = 0;
};

// What apply() did in one step, from the slopes in a log.
void replay_direction(std::vector<TrainedTensor>& tensors, const ZerothOrder& options,
                      const std::vector<double>& slopes, double rate, uint64_t seed, uint64_t step);

}  // namespace fewbit
