// The tokenizer of a checkpoint, and its chat template, wherever its files keep them.
#pragma once

#include <optional>
#include <string>

#include "fewbit/model/checkpoint.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {

// Error that names the checkpoint if it has no tokenizer.
Tokenizer load_tokenizer(const Checkpoint& checkpoint);

// The source of its chat template: chat_template.jinja or tokenizer_config.json beside a
// tokenizer.json, tokenizer.chat_template of a GGUF file. Absent if there is none.
std::optional<std::string> load_chat_template(const Checkpoint& checkpoint);

// What stands before a text under rules that want a prefix: BOS as the tokenizer or the model names
// it, or the EOS of one that names no BOS, for want of a better. `tokenizer` may be null.
std::optional<int32_t> prefix_token(const Checkpoint& checkpoint, const Tokenizer* tokenizer);

}  // namespace fewbit
