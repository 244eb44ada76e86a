#include "fewbit/network/distillation.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/network/ops_node.h"

namespace fewbit::ops {
namespace {

using torch::autograd::variable_list;

// Elements of a panel of logits, of which several exist at once, and its least rows.
constexpr int64_t kPanelElements = int64_t{1} << 20, kMinPanelRows = 64;

// Inputs: hidden, weight, bias of the student.
class DistillationBackward : public FusedNode {
 public:
  std::string name() const override { return "distillation_sum"; }
  at::Tensor dhidden, dweight, dbias, direct;

 protected:
  variable_list backward(const variable_list& gradients) override {
    variable_list result(3);
    if (!gradients[0].defined()) return result;
    const double factor = gradients[0].item<double>();
    if (wanted(0)) result[0] = dhidden.mul_(factor);
    if (direct.defined()) {
      direct.add_(dweight, factor);
    } else if (wanted(1)) {
      result[1] = dweight.mul_(factor);
    }
    if (dbias.defined() && wanted(2)) result[2] = dbias.mul_(factor);
    return result;
  }
  void release() override {
    dhidden.reset();
    dweight.reset();
    dbias.reset();
  }
};

at::Tensor panel_logits(const LogitSource& source, int64_t first, int64_t rows) {
  at::Tensor logits = linear(source.hidden.narrow(0, first, rows), source.weight, source.head.bias);
  if (source.head.softcap) {
    logits = (logits / *source.head.softcap).tanh() * *source.head.softcap;
  }
  return logits;
}

// Sum of the losses of a panel; the gradient of `student` logits into `gradient`.
double panel_loss(const at::Tensor& student, const at::Tensor& teacher, const at::Tensor& targets,
                  const DistillationOptions& options, at::Tensor& gradient) {
  const double tau = options.temperature, share = options.cross_entropy_share;
  const at::Tensor log_q = at::log_softmax(student / tau, -1);
  double loss = 0;
  gradient = at::zeros_like(student);
  if (share < 1) {
    const at::Tensor log_p = at::log_softmax(teacher / tau, -1);
    const at::Tensor q = log_q.exp(), p = log_p.exp();
    if (options.divergence == Divergence::forward) {
      loss += (1 - share) * tau * tau * (p * (log_p - log_q)).sum(at::kDouble).item<double>();
      gradient.add_(q - p, (1 - share) * tau);
    } else {
      const at::Tensor difference = log_q - log_p;
      const at::Tensor divergence = (q * difference).sum(-1, /*keepdim=*/true);
      loss += (1 - share) * tau * tau * divergence.sum(at::kDouble).item<double>();
      gradient.add_(q * (difference - divergence), (1 - share) * tau);
    }
  }
  if (share > 0) {
    const at::Tensor log_s = tau == 1 ? log_q : at::log_softmax(student, -1);
    const at::Tensor at_target = targets.unsqueeze(1);
    loss -= share * log_s.gather(1, at_target).sum(at::kDouble).item<double>();
    gradient.add_(log_s.exp(), share);
    gradient.scatter_add_(1, at_target, at::full({targets.size(0), 1}, -share, at::kFloat));
  }
  return loss;
}

}  // namespace

at::Tensor distillation_sum(const LogitSource& student, const LogitSource& teacher,
                            const at::Tensor& targets, const DistillationOptions& options) {
  const int64_t rows = student.hidden.size(0), vocab = student.weight.size(0);
  require(teacher.hidden.size(0) == rows && targets.size(0) == rows,
          "distillation: {} rows of the student, {} of the teacher, {} targets", rows,
          teacher.hidden.size(0), targets.size(0));
  require(teacher.weight.size(0) == vocab,
          "distillation: a teacher of {} tokens for a student of {}", teacher.weight.size(0),
          vocab);
  const bool wanted = wants_gradient({student.hidden, student.weight, student.head.bias});
  const LogitSource own{student.hidden.detach(),
                        student.weight.detach(),
                        {student.head.bias.defined() ? student.head.bias.detach() : at::Tensor(),
                         student.head.softcap}};
  double loss = 0;
  at::Tensor dhidden, dweight, dbias;
  {
    const at::NoGradGuard no_gradient;
    if (wanted) {
      dhidden = at::empty_like(own.hidden);
      dweight = at::zeros_like(own.weight);
      if (own.head.bias.defined()) dbias = at::zeros_like(own.head.bias);
    }
    const int64_t panel = std::max(kMinPanelRows, kPanelElements / vocab);
    for (int64_t first = 0; first < rows; first += panel) {
      const int64_t count = std::min(panel, rows - first);
      const at::Tensor logits = panel_logits(own, first, count);
      at::Tensor gradient;
      loss += panel_loss(logits, panel_logits(teacher, first, count),
                         targets.narrow(0, first, count), options, gradient);
      if (!wanted) continue;
      if (own.head.softcap) gradient.mul_(1 - (logits / *own.head.softcap).square());
      at::Tensor out = dhidden.narrow(0, first, count);
      at::mm_out(out, gradient, own.weight);
      dweight.addmm_(gradient.t(), own.hidden.narrow(0, first, count));
      if (dbias.defined()) dbias.add_(gradient.sum(0));
    }
  }
  at::Tensor out = at::scalar_tensor(loss, at::kFloat);
  if (wanted) {
    const auto node =
        make_node<DistillationBackward>({student.hidden, student.weight, student.head.bias});
    node->dhidden = dhidden;
    node->dweight = dweight;
    node->dbias = dbias;
    node->direct = direct_gradient(student.weight);
    attach(out, node);
  }
  return out;
}

}  // namespace fewbit::ops
