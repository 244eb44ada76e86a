// Any text is the config of a model or a fewbit::Error; a spec that was accepted can be listed,
// bound to files of every kind, and comes back from its own JSON form.
#include <string_view>

#include "fewbit/base/error.h"
#include "fewbit/base/json.h"
#include "fewbit/model/architectures.h"
#include "fewbit/model/tensor_names.h"
#include "fewbit/model/wiring.h"

namespace {

// Small enough that listing its tensors takes no time.
bool is_small(const fewbit::ModelSpec& spec) {
  constexpr size_t kMaxLinears = 512;
  return spec.blocks.size() * (1 + spec.experts) <= kMaxLinears;
}

template <class Try>
void try_it(Try attempt) {
  try {
    attempt();
  } catch (const fewbit::Error&) {
  }
}

void use(const fewbit::ModelSpec& spec) {
  using namespace fewbit;
  spec.validate();
  if (spec_from_json(spec_to_json(spec)) != spec) __builtin_trap();
  if (!is_small(spec)) return;
  if (spec.non_embedding_params() > spec.total_params()) __builtin_trap();
  const size_t tensors = model_tensors(spec).size();
  try_it([&] {
    const Json config = hf_config(spec, "float32");
    if (parse_hf_config(config) != spec) __builtin_trap();
  });
  try_it([&] {
    const NamePrefix prefix = hf_name_prefixes(spec.architecture).front();
    if (hf_bindings(spec, prefix).size() != tensors) __builtin_trap();
  });
  try_it([&] {
    if (gguf_bindings(spec).size() != tensors) __builtin_trap();
  });
  const Wiring wiring = wiring_of(spec);
  for (const std::string& linear : quantizable_linears(spec)) step_of(wiring, linear);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fewbit;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try_it([&] {
    const Json config = parse_json(text, "fuzz");
    try_it([&] { use(parse_hf_config(config)); });
    // The same text as the form that fewbit directories hold.
    try_it([&] { use(spec_from_json(config)); });
  });
  return 0;
}
