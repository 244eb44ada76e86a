// The tokenizer of a checkpoint, wherever its files keep it.
#pragma once

#include "fewbit/model/checkpoint.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {

// Error that names the checkpoint if it has no tokenizer.
Tokenizer load_tokenizer(const Checkpoint& checkpoint);

}  // namespace fewbit
