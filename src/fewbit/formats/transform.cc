#include "fewbit/formats/transform.h"

#include <cstring>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr size_t kMaxSteps = 16;

// Indices below 65536 are stored as U16.
Dtype index_dtype(size_t size) { return size <= 65536 ? Dtype::u16 : Dtype::u32; }

void permute(const Permutation& permutation, std::span<float> x) {
  const std::vector<float> before(x.begin(), x.end());
  for (size_t i = 0; i < x.size(); ++i) x[i] = before[permutation.order[i]];
}

void permute_transposed(const Permutation& permutation, std::span<float> x) {
  const std::vector<float> before(x.begin(), x.end());
  for (size_t i = 0; i < x.size(); ++i) x[permutation.order[i]] = before[i];
}

}  // namespace

void check_permutation(std::span<const uint32_t> order) {
  std::vector<bool> seen(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    require(order[i] < order.size() && !seen[order[i]],
            "permutation: entry {} is {}; each of 0 to {} must occur once", i, order[i],
            order.size() - 1);
    seen[order[i]] = true;
  }
}

Permutation inverse(const Permutation& permutation) {
  Permutation result;
  result.order.resize(permutation.order.size());
  for (size_t i = 0; i < permutation.order.size(); ++i) {
    result.order[permutation.order[i]] = static_cast<uint32_t>(i);
  }
  return result;
}

void check_transform(const Transform& transform, size_t size) {
  for (const TransformStep& step : transform.steps) {
    const auto& order = std::get<Permutation>(step).order;
    require(order.size() == size, "permutation of {} elements where the matrix has {}",
            order.size(), size);
    check_permutation(order);
  }
}

void apply_transform(const Transform& transform, std::span<float> x) {
  for (const TransformStep& step : transform.steps) permute(std::get<Permutation>(step), x);
}

void apply_transposed(const Transform& transform, std::span<float> x) {
  for (size_t i = transform.steps.size(); i-- > 0;) {
    permute_transposed(std::get<Permutation>(transform.steps[i]), x);
  }
}

Json transform_to_tensors(const Transform& transform, const std::string& prefix,
                          std::vector<NamedTensor>& tensors) {
  Json description = Json::array();
  for (size_t i = 0; i < transform.steps.size(); ++i) {
    const auto& order = std::get<Permutation>(transform.steps[i]).order;
    NamedTensor tensor{
        fmt::format("{}.{}.permutation", prefix, i), index_dtype(order.size()), {order.size()}, {}};
    const size_t width = dtype_bytes(tensor.dtype);
    tensor.bytes.resize(order.size() * width);
    for (size_t k = 0; k < order.size(); ++k) {
      std::memcpy(&tensor.bytes[k * width], &order[k], width);
    }
    tensors.push_back(std::move(tensor));
    description.push_back({{"kind", "permutation"}});
  }
  return description;
}

Transform transform_from_tensors(const Json& description, size_t size, const std::string& prefix,
                                 const TensorFinder& find) {
  require(description.is_array() && description.size() <= kMaxSteps,
          "{}: expected a list of at most {} transforms", prefix, kMaxSteps);
  Transform transform;
  for (size_t i = 0; i < description.size(); ++i) {
    const auto kind = json_get<std::string>(description[i], "kind");
    require(kind == "permutation", "{}: transform kind '{}' is not known; known: permutation",
            prefix, kind);
    const TensorView& tensor =
        find_checked(find, fmt::format("{}.{}.permutation", prefix, i), index_dtype(size), {size});
    Permutation permutation;
    permutation.order.resize(size);
    const size_t width = dtype_bytes(tensor.dtype);
    for (size_t k = 0; k < size; ++k) {
      std::memcpy(&permutation.order[k], &tensor.bytes[k * width], width);
    }
    with_context(tensor.name, [&] { check_permutation(permutation.order); });
    transform.steps.emplace_back(std::move(permutation));
  }
  return transform;
}

}  // namespace fewbit
