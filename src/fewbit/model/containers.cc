#include "fewbit/model/containers.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/formats/ggml_blocks.h"

namespace fewbit {
namespace {

std::span<const float> aligned_floats(std::span<const std::byte> bytes) {
  if (bytes.empty() || reinterpret_cast<uintptr_t>(bytes.data()) % alignof(float) != 0) return {};
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}

// Tensors as safetensors has them, whatever the file.
class ViewContainer : public TensorContainer {
 public:
  bool contains(std::string_view name) const override { return find(name) != nullptr; }
  TensorInfo info(std::string_view name) const override {
    const TensorView& tensor = at(name);
    return {tensor.shape, std::string(dtype_name(tensor.dtype)), tensor.bytes.size()};
  }
  std::span<const std::byte> bytes(std::string_view name) const override { return at(name).bytes; }
  std::span<const float> floats(std::string_view name) const override {
    const TensorView& tensor = at(name);
    return tensor.dtype == Dtype::f32 ? aligned_floats(tensor.bytes) : std::span<const float>{};
  }

  void decode_rows(std::string_view name, size_t first, MatrixView<float> out) const override {
    const TensorView& tensor = at(name);
    const size_t row_bytes = out.cols() * dtype_bytes(tensor.dtype);
    for (size_t r = 0; r < out.rows(); ++r) {
      const TensorView row{tensor.name,
                           tensor.dtype,
                           {out.cols()},
                           tensor.bytes.subspan((first + r) * row_bytes, row_bytes)};
      if (tensor.dtype == Dtype::f32) {
        std::memcpy(out.row(r).data(), row.bytes.data(), row_bytes);
      } else {
        const std::vector<float> values = to_floats(row);
        std::copy(values.begin(), values.end(), out.row(r).begin());
      }
    }
  }

 protected:
  // nullptr if absent.
  virtual const TensorView* find(std::string_view name) const = 0;

 private:
  const TensorView& at(std::string_view name) const {
    const TensorView* found = find(name);
    require(found != nullptr, "{}: tensor {} is missing", what(), name);
    return *found;
  }
};

class SafetensorsContainer : public ViewContainer {
 public:
  explicit SafetensorsContainer(HfDirectory directory)
      : directory_(std::move(directory)), what_(directory_.path().string()) {}

  const std::string& what() const override { return what_; }
  std::vector<std::string> names() const override { return directory_.tensor_names(); }

 protected:
  const TensorView* find(std::string_view name) const override { return directory_.find(name); }

 private:
  HfDirectory directory_;
  std::string what_;
};

class Llama2cContainer : public ViewContainer {
 public:
  Llama2cContainer(Llama2cFile file, std::string what)
      : file_(std::move(file)), what_(std::move(what)) {}

  const std::string& what() const override { return what_; }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const TensorView& tensor : file_.tensors()) names.push_back(tensor.name);
    return names;
  }

 protected:
  const TensorView* find(std::string_view name) const override {
    for (const TensorView& tensor : file_.tensors()) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }

 private:
  Llama2cFile file_;
  std::string what_;
};

class GgufContainer : public TensorContainer {
 public:
  explicit GgufContainer(GgufFile file) : file_(std::move(file)) {}

  const std::string& what() const override { return file_.what(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const GgufTensor& tensor : file_.tensors()) names.push_back(tensor.name);
    return names;
  }
  bool contains(std::string_view name) const override { return file_.contains_tensor(name); }
  TensorInfo info(std::string_view name) const override {
    const GgufTensor& tensor = file_.tensor(name);
    return {{tensor.shape.rbegin(), tensor.shape.rend()},
            std::string(ggml_type_info(tensor.type).name),
            tensor.bytes.size()};
  }
  std::span<const std::byte> bytes(std::string_view name) const override {
    return file_.tensor(name).bytes;
  }
  std::span<const float> floats(std::string_view name) const override {
    const GgufTensor& tensor = file_.tensor(name);
    return tensor.type == GgmlType::f32 ? aligned_floats(tensor.bytes) : std::span<const float>{};
  }

  void decode_rows(std::string_view name, size_t first, MatrixView<float> out) const override {
    const GgufTensor& tensor = file_.tensor(name);
    with_context(fmt::format("tensor {}", name), [&] {
      const size_t row_bytes = ggml_bytes(tensor.type, out.cols());
      for (size_t r = 0; r < out.rows(); ++r) {
        dequantize_ggml(tensor.type, tensor.bytes.subspan((first + r) * row_bytes, row_bytes),
                        out.row(r));
      }
    });
  }

 private:
  GgufFile file_;
};

}  // namespace

std::shared_ptr<const TensorContainer> safetensors_container(HfDirectory directory) {
  return std::make_shared<SafetensorsContainer>(std::move(directory));
}

std::shared_ptr<const TensorContainer> llama2c_container(Llama2cFile file, std::string what) {
  return std::make_shared<Llama2cContainer>(std::move(file), std::move(what));
}

std::shared_ptr<const TensorContainer> gguf_container(GgufFile file) {
  return std::make_shared<GgufContainer>(std::move(file));
}

}  // namespace fewbit
