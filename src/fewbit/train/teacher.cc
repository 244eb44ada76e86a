#include "fewbit/train/teacher.h"

#include <ATen/core/grad_mode.h>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

struct Outputs {
  std::vector<at::Tensor> blocks;  // [batch, length, hidden], if they were asked for
  at::Tensor final;                // what the head multiplies
};

Outputs run(const Decoder& decoder, const at::Tensor& tokens, const ParameterMap& parameters,
            const BlockHooks& hooks, bool keep_blocks) {
  Outputs outputs;
  BlockState state{tokens, {}};
  for (size_t block = 0; block + 1 < decoder.blocks().size(); ++block) {
    state = decoder.run(block, state, parameters, hooks);
    if (keep_blocks && block > 0) outputs.blocks.push_back(state.value);
  }
  outputs.final = decoder.final_hidden(state.value, parameters, hooks).flatten(0, 1);
  return outputs;
}

ops::LogitSource source_of(const Decoder& decoder, const at::Tensor& hidden,
                           const ParameterMap& parameters) {
  return {hidden, decoder.head_weight(parameters), decoder.head_options(parameters)};
}

}  // namespace

void check_teacher(const ModelSpec& teacher, const ModelSpec& student, double hidden_weight) {
  require(teacher.vocab_size == student.vocab_size,
          "the teacher has {} tokens, the student {}: they need one tokenizer", teacher.vocab_size,
          student.vocab_size);
  require(hidden_weight == 0 || (teacher.blocks.size() == student.blocks.size() &&
                                 teacher.hidden_size == student.hidden_size),
          "hidden_weight: the teacher has {} blocks of width {}, the student {} of {}",
          teacher.blocks.size(), teacher.hidden_size, student.blocks.size(), student.hidden_size);
}

at::Tensor distilled_loss_sum(const Teacher& teacher, const Decoder& student,
                              const ParameterMap& parameters, const BlockHooks& hooks,
                              const at::Tensor& tokens, const at::Tensor& targets) {
  const bool hidden = teacher.hidden_weight > 0;
  Outputs wanted;
  {
    const at::NoGradGuard no_gradient;
    wanted = run(*teacher.decoder, tokens, teacher.parameters, {}, hidden);
  }
  const Outputs got = run(student, tokens, parameters, hooks, hidden);
  at::Tensor loss =
      ops::distillation_sum(source_of(student, got.final, parameters),
                            source_of(*teacher.decoder, wanted.final, teacher.parameters),
                            targets.flatten(), teacher.options);
  constexpr double kSmallestSquare = 1e-12;
  for (size_t block = 0; block < got.blocks.size(); ++block) {
    const at::Tensor scale = wanted.blocks[block].square().sum(-1).clamp_min_(kSmallestSquare);
    const at::Tensor distance = (got.blocks[block] - wanted.blocks[block]).square().sum(-1);
    const double weight = teacher.hidden_weight / static_cast<double>(got.blocks.size());
    loss = loss + (distance / scale).sum() * weight;
  }
  return loss;
}

}  // namespace fewbit
