// Fake quantizers of the inputs of linears: one per site (BlockHooks), all of one kind.
//
// What a trained model needs to run again is a JSON description, which checkpoints carry
// (Checkpoint::activations):
//
//   {"quantizer": "lsq:bits=8", "sites": {"blocks.0.attn.input": {"step": 0.031}, ...}}
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/base/json.h"
#include "fewbit/base/named_options.h"
#include "fewbit/network/block_model.h"
#include "fewbit/train/fake_quant_activation.h"

namespace fewbit {

class ActivationSites {
 public:
  ActivationSites() = default;
  // `quantizer`: "absmax:bits=8", a name of activation_quantizers() with options.
  ActivationSites(std::string_view quantizer, const std::vector<std::string>& sites);
  static ActivationSites from_json(const Json& description);
  Json to_json() const;

  bool empty() const { return sites_.empty(); }
  // Learned scalars, named "SITE.PARAMETER", in the order of their names; leaves.
  std::vector<QuantizerTensor> parameters() const;
  // Others with leaves of their own that share these values: for another thread's gradients.
  ActivationSites replica() const;

  // Quantizes at every site. The hooks borrow this.
  BlockHooks hooks() const;
  // The same, each parameter first set from the value that arrives there.
  BlockHooks starting_hooks();

 private:
  NamedOptions quantizer_;
  std::map<std::string, std::unique_ptr<ActivationFakeQuant>, std::less<>> sites_;
};

// Hooks that own what they need, from a checkpoint's description; none if that is null. Errors name
// the key.
BlockHooks activation_hooks(const Json& description);

}  // namespace fewbit
