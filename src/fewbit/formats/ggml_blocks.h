// Decoding of ggml's block types, as GGUF files store them.
//
// Each type stores blocks of 32 to 256 consecutive elements of a row: codes with one or several
// scales. Results are bit-equal to those of the reference decoder: float32, products in the order
// written beside each type in ggml_blocks.cc, no fused multiply-add.
//
// Decodable: F32 F16 BF16 F64, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0, Q2_K to Q6_K, TQ1_0 TQ2_0, IQ1_S to
// IQ4_XS, MXFP4 NVFP4, Q1_0 Q2_0. Not: the integer types, and Q8_1 and Q8_K, which hold
// activations. Source: the block layouts of ggml 0.25 (ggml-common.h).
#pragma once

#include <cstddef>
#include <span>

#include "fewbit/io/ggml_types.h"

namespace fewbit {

bool ggml_decodable(GgmlType type);

// Decodes whole blocks: `bytes` holds out.size() elements exactly, unaligned as they come. Error
// if it does not, or if the type is not decodable. Runs on the caller's thread; rows, or any other
// multiples of a block, may be decoded in parallel.
void dequantize_ggml(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace fewbit
