// Linear transforms on the input or the output side of a QuantizedMatrix: sequences of steps, each
// applied to a vector in turn.
//
// A step is now a permutation, (P x)[i] = x[order[i]]: GPTQ's dynamic activation order is the input
// permutation whose order is the visiting order. Scales and Hadamard steps join this variant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "fewbit/formats/code_planes.h"

namespace fewbit {

struct Permutation {
  std::vector<uint32_t> order;
  friend bool operator==(const Permutation&, const Permutation&) = default;
};
// Error unless `order` holds each of 0..size-1 once.
void check_permutation(std::span<const uint32_t> order);
Permutation inverse(const Permutation& permutation);

using TransformStep = std::variant<Permutation>;

struct Transform {
  std::vector<TransformStep> steps;  // The first is applied first.

  bool is_identity() const { return steps.empty(); }
  friend bool operator==(const Transform&, const Transform&) = default;
};

// Error unless every step acts on vectors of `size` elements.
void check_transform(const Transform& transform, size_t size);
// T x, in place.
void apply_transform(const Transform& transform, std::span<float> x);
// T^t x, in place: turns a row of P into that row of P T.
void apply_transposed(const Transform& transform, std::span<float> x);

Json transform_to_tensors(const Transform& transform, const std::string& prefix,
                          std::vector<NamedTensor>& tensors);
Transform transform_from_tensors(const Json& description, size_t size, const std::string& prefix,
                                 const TensorFinder& find);

}  // namespace fewbit
