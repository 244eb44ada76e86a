#include "fewbit/model/model_text.h"

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/io/hf_directory.h"
#include "fewbit/text/gguf_vocabulary.h"

namespace fewbit {

Tokenizer load_tokenizer(const Checkpoint& checkpoint) {
  const TokenizerSource& source = checkpoint.tokenizer;
  require(!source.empty(), "{}: the model has no tokenizer", checkpoint.path.string());
  if (source.gguf) return make_tokenizer(read_gguf_vocabulary(*source.gguf));
  const std::filesystem::path& path = *source.tokenizer_json;
  Tokenizer tokenizer =
      Tokenizer::from_json(read_text_file(path, kMaxModelTextBytes), path.string());
  const std::filesystem::path config = path.parent_path() / "tokenizer_config.json";
  if (!std::filesystem::exists(config)) return tokenizer;
  return tokenizer.with_config(
      parse_json(read_text_file(config, kMaxModelTextBytes), config.string()));
}

std::optional<int32_t> prefix_token(const Checkpoint& checkpoint, const Tokenizer* tokenizer) {
  if (tokenizer != nullptr && tokenizer->special().bos) return tokenizer->special().bos;
  if (checkpoint.spec.bos_token) return checkpoint.spec.bos_token;
  if (tokenizer != nullptr && tokenizer->special().eos) return tokenizer->special().eos;
  if (!checkpoint.spec.eos_tokens.empty()) return checkpoint.spec.eos_tokens.front();
  return std::nullopt;
}

}  // namespace fewbit
