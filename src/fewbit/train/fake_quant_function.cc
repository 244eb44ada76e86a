#include "fewbit/train/fake_quant_function.h"

#include <torch/torch.h>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_formula.h"
#include "fewbit/train/fake_quant_kernels.h"

namespace fewbit {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// A plain struct inside the context of a node.
template <class T>
struct Boxed : torch::CustomClassHolder {
  explicit Boxed(T v) : value(std::move(v)) {}
  T value;
};

template <class T>
void store(AutogradContext* context, const T& value) {
  context->saved_data["rule"] = c10::IValue::make_capsule(c10::make_intrusive<Boxed<T>>(value));
}

template <class T>
const T& stored(AutogradContext* context) {
  return static_cast<const Boxed<T>*>(context->saved_data["rule"].toCapsule().get())->value;
}

bool on_cpu(const at::Tensor& tensor) { return tensor.device().is_cpu(); }

kernels::GroupShape shape_of(const at::Tensor& groups) { return {groups.size(0), groups.size(1)}; }

// Calls body with a value of the tensor's element type.
template <class Body>
void with_float_type(const at::Tensor& tensor, const Body& body) {
  require(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble,
          "weights in training are float32 or float64, not {}", toString(tensor.scalar_type()));
  tensor.scalar_type() == at::kFloat ? body(float{}) : body(double{});
}

template <class T>
const T* pointer(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

template <class T>
T* output(at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

void check_parameter(const at::Tensor& groups, const at::Tensor& parameter, const char* what) {
  require(groups.dim() == 2 && parameter.dim() == 2 && parameter.size(0) == groups.size(0) &&
              parameter.size(1) == 1 && parameter.scalar_type() == groups.scalar_type() &&
              parameter.device() == groups.device(),
          "{} of a fake quantizer must be one number per group, in the type of the weights", what);
}

template <class T>
kernels::LevelScales<T> scales_of(const EffectiveScale& scale, const at::Tensor& centre) {
  return {pointer<T>(scale.value), pointer<T>(scale.stored), pointer<T>(centre)};
}

// What a node keeps beside its inputs. An undefined centre cannot be an input.
struct CentredRule {
  LevelRule rule;
  at::Tensor centre;
};

void level_forward_on_cpu(const at::Tensor& w, const EffectiveScale& scale,
                          const CentredRule& centred, at::Tensor& out) {
  with_float_type(w, [&](auto zero) {
    using T = decltype(zero);
    kernels::level_forward(shape_of(w), pointer<T>(w), scales_of<T>(scale, centred.centre),
                           centred.rule.grid, output<T>(out));
  });
}

struct LevelNode : Function<LevelNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& groups,
                            const at::Tensor& scale, const CentredRule& centred) {
    const auto& [rule, centre] = centred;
    const at::Tensor w = groups.contiguous();
    const EffectiveScale effective = effective_scale(scale.contiguous(), rule);
    store(context, centred);
    context->save_for_backward({w, effective.value, effective.stored});
    if (!on_cpu(w)) {
      return formula::levels(w, effective.value, centre, rule.grid) * effective.stored;
    }
    at::Tensor out = at::empty_like(w);
    level_forward_on_cpu(w, effective, centred, out);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& w = saved[0];
    const EffectiveScale effective{saved[2], saved[1]};
    const CentredRule& centred = stored<CentredRule>(context);
    const at::Tensor& centre = centred.centre;
    const LevelRule& rule = centred.rule;
    const at::Tensor gradient = gradients[0].contiguous();
    if (!on_cpu(w)) {
      auto parts =
          formula::level_backward(w, effective.value, centre, gradient, rule.grid, rule.gradient);
      return {parts.groups, parts.scale, {}};
    }
    at::Tensor dw, dscale;
    if (context->needs_input_grad(0)) dw = at::empty_like(w);
    if (context->needs_input_grad(1)) dscale = at::empty_like(effective.value);
    with_float_type(w, [&](auto zero) {
      using T = decltype(zero);
      kernels::level_backward(shape_of(w), pointer<T>(w), scales_of<T>(effective, centre),
                              rule.grid, rule.gradient, pointer<T>(gradient), output<T>(dw),
                              output<T>(dscale));
    });
    return {dw, dscale, {}};
  }
};

struct AffineNode : Function<AffineNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& groups,
                            const at::Tensor& scale, const at::Tensor& zero,
                            const AffineRule& rule) {
    const at::Tensor w = groups.contiguous();
    const EffectiveAffine effective = effective_affine(scale.contiguous(), zero.contiguous(), rule);
    store(context, rule);
    context->save_for_backward({w, effective.scale, effective.zero});
    if (!on_cpu(w)) {
      return effective.scale *
             (formula::affine_codes(w, effective.scale, effective.zero, rule.largest_code()) -
              effective.zero);
    }
    at::Tensor out = at::empty_like(w);
    with_float_type(w, [&](auto number) {
      using T = decltype(number);
      kernels::affine_forward(shape_of(w), pointer<T>(w), pointer<T>(effective.scale),
                              pointer<T>(effective.zero), static_cast<T>(rule.largest_code()),
                              output<T>(out));
    });
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &w = saved[0], &scale = saved[1], &zero = saved[2];
    const AffineRule& rule = stored<AffineRule>(context);
    const at::Tensor gradient = gradients[0].contiguous();
    at::Tensor dw, dscale, dzero;
    if (on_cpu(w)) {
      if (context->needs_input_grad(0)) dw = at::empty_like(w);
      dscale = at::empty_like(scale);
      dzero = at::empty_like(zero);
      with_float_type(w, [&](auto number) {
        using T = decltype(number);
        kernels::affine_backward(shape_of(w), pointer<T>(w), pointer<T>(scale), pointer<T>(zero),
                                 static_cast<T>(rule.largest_code()), pointer<T>(gradient),
                                 output<T>(dw), output<T>(dscale), output<T>(dzero));
      });
    } else {
      auto parts = formula::affine_backward(w, scale, zero, gradient, rule.largest_code());
      dw = parts.groups;
      dscale = parts.scale;
      dzero = parts.zero;
    }
    if (!rule.learned_zero) dzero.reset();
    return {dw, dscale, dzero, {}};
  }
};

struct StraightThroughNode : Function<StraightThroughNode> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& source, const at::Tensor& value) {
    // A node must not return a tensor that others hold.
    return value.is_same(source) ? value.clone() : value.view_as(value);
  }
  static variable_list backward(AutogradContext*, const variable_list& gradients) {
    return {gradients[0], {}};
  }
};

}  // namespace

GradientRule identity_gradient() { return {}; }

at::Tensor straight_through(const at::Tensor& source, const at::Tensor& value) {
  return StraightThroughNode::apply(source, value.detach());
}

EffectiveScale effective_scale(const at::Tensor& scale, const LevelRule& rule) {
  const at::Tensor value = scale.detach().clamp_min(kSmallestScale);
  const at::Tensor stored = round_to_stored(value * rule.grid.unit, rule.scale_dtype);
  if (rule.scale_dtype == Dtype::f32) return {stored, value};
  return {stored, rule.grid.unit == 1 ? stored : stored / rule.grid.unit};
}

at::Tensor level_fake_quant(const at::Tensor& groups, const at::Tensor& scale,
                            const at::Tensor& centre, const LevelRule& rule) {
  with_float_type(groups, [](auto) {});  // Refuses other types.
  check_parameter(groups, scale, "the scale");
  if (centre.defined()) check_parameter(groups, centre, "the centre");
  return LevelNode::apply(groups, scale,
                          CentredRule{rule, centre.defined() ? centre.detach() : centre});
}

at::Tensor level_codes(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& centre,
                       const LevelRule& rule) {
  check_parameter(groups, scale, "the scale");
  const at::Tensor w = groups.detach().contiguous();
  const EffectiveScale effective = effective_scale(scale, rule);
  const LevelGrid& grid = rule.grid;
  if (!on_cpu(w)) {
    const at::Tensor levels = formula::levels(w, effective.value, centre, grid);
    return ((levels - grid.first_level) / grid.level_step).to(at::kByte);
  }
  at::Tensor codes = at::empty_like(w, at::kByte);
  with_float_type(w, [&](auto zero) {
    using T = decltype(zero);
    kernels::level_codes(shape_of(w), pointer<T>(w), scales_of<T>(effective, centre), grid,
                         output<uint8_t>(codes));
  });
  return codes;
}

EffectiveAffine effective_affine(const at::Tensor& scale, const at::Tensor& zero,
                                 const AffineRule& rule) {
  const at::Tensor bounded = scale.detach().clamp(kSmallestAffineScale, kLargestAffineScale);
  at::Tensor whole = zero.detach().round();
  if (rule.learned_zero) whole = whole.clamp(0, rule.largest_code());
  // Only zero points outside the codes, stored as floats, can lose digits here.
  return {round_to_stored(bounded, rule.scale_dtype), round_to_stored(whole, rule.scale_dtype)};
}

at::Tensor affine_fake_quant(const at::Tensor& groups, const at::Tensor& scale,
                             const at::Tensor& zero, const AffineRule& rule) {
  check_parameter(groups, scale, "the scale");
  check_parameter(groups, zero, "the zero point");
  return AffineNode::apply(groups, scale, zero, rule);
}

at::Tensor affine_codes(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& zero,
                        const AffineRule& rule) {
  const at::Tensor w = groups.detach().contiguous();
  const EffectiveAffine effective = effective_affine(scale, zero, rule);
  if (!on_cpu(w)) {
    return formula::affine_codes(w, effective.scale, effective.zero, rule.largest_code())
        .to(at::kByte);
  }
  at::Tensor codes = at::empty_like(w, at::kByte);
  with_float_type(w, [&](auto number) {
    using T = decltype(number);
    kernels::affine_codes(shape_of(w), pointer<T>(w), pointer<T>(effective.scale),
                          pointer<T>(effective.zero), static_cast<T>(rule.largest_code()),
                          output<uint8_t>(codes));
  });
  return codes;
}

}  // namespace fewbit
