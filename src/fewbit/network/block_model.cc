#include "fewbit/network/block_model.h"

namespace fewbit {

ParameterMap BlockModel::load_all_parameters() const {
  ParameterMap all;
  for (size_t block = 0; block < blocks().size(); ++block) {
    // A tensor that two blocks read (a tied head) is loaded once.
    bool present = true;
    for (const TensorSpec& tensor : blocks()[block].parameters) {
      present = present && all.contains(tensor.name);
    }
    if (!present) all.merge(load_parameters(block));
  }
  return all;
}

}  // namespace fewbit
