#include "fewbit/methods/registry.h"

#include "fewbit/methods/autoround.h"
#include "fewbit/methods/awq.h"
#include "fewbit/methods/clip.h"
#include "fewbit/methods/gptq.h"
#include "fewbit/methods/omniquant.h"
#include "fewbit/methods/rtn.h"
#include "fewbit/methods/smoothquant.h"

namespace fewbit {

std::span<const MethodInfo> methods() {
  static const MethodInfo table[] = {
      rtn_method(),  nf4_method(),   fp4_method(),         hqq_method(),
      gptq_method(), gptaq_method(), omniquant_method(),   autoround_method(),
      awq_method(),  clip_method(),  smoothquant_method(),
  };
  return table;
}

}  // namespace fewbit
