// EfficientQAT's first phase (Block-AP): block by block, weights, scales and zero points are
// trained so that the block gives what it gave in full precision.
//
// Two streams run through the model: F through the float blocks, whose outputs are the targets, and
// H through the quantized ones, whose inputs a block gets, so that it can mend the errors of those
// before it. Loss: mean (block^(H) - block(F))^2. AdamW without weight decay and clipping, cosine
// to a twentieth of the rate. Norms stay as they are.
//
// Source: arXiv 2407.11062.
#pragma once

#include <cstdint>
#include <vector>

#include "fewbit/network/decoder.h"
#include "fewbit/train/data_order.h"
#include "fewbit/train/network_quantizers.h"

namespace fewbit {

struct BlockPhase {
  size_t sequences = 128;  // of the text, the first of its order
  size_t batch = 2;        // sequences of an update
  size_t epochs = 2;
  double rate = 1e-4;         // of scales and zero points
  double weight_rate = 2e-5;  // of weights
};

struct BlockOutcome {
  std::string block;
  double before = 0, after = 0;  // the loss over all sequences
};

// `batch`: inputs [sequences, length] that the phase learns from. Changes the values of `tensors`.
// The same bits for any number of threads.
std::vector<BlockOutcome> train_blocks(const Decoder& decoder, const BlockPhase& phase,
                                       const at::Tensor& inputs, NetworkQuantizers& quantizers,
                                       std::vector<TrainedTensor>& tensors);

// The second phase: codes and zero points stay as they are, the scales alone are trained, and
// nothing else of the model.
void freeze_all_but_scales(const QuantizerOptions& options, NetworkQuantizers& quantizers,
                           std::vector<TrainedTensor>& tensors);

}  // namespace fewbit
