#include "fewbit/model/model_text.h"

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/io/gguf.h"
#include "fewbit/io/hf_directory.h"
#include "fewbit/text/chat_template.h"
#include "fewbit/text/gguf_vocabulary.h"

namespace fewbit {
namespace {

// tokenizer_config.json beside a tokenizer.json; null if there is none.
Json tokenizer_config(const std::filesystem::path& tokenizer_json) {
  const std::filesystem::path path = tokenizer_json.parent_path() / "tokenizer_config.json";
  if (!std::filesystem::exists(path)) return nullptr;
  return parse_json(read_text_file(path, kMaxModelTextBytes), path.string());
}

}  // namespace

Tokenizer load_tokenizer(const Checkpoint& checkpoint) {
  const TokenizerSource& source = checkpoint.tokenizer;
  require(!source.empty(), "{}: the model has no tokenizer", checkpoint.path.string());
  if (source.gguf) return make_tokenizer(read_gguf_vocabulary(*source.gguf));
  const std::filesystem::path& path = *source.tokenizer_json;
  Tokenizer tokenizer =
      Tokenizer::from_json(read_text_file(path, kMaxModelTextBytes), path.string());
  const Json config = tokenizer_config(path);
  return config.is_null() ? tokenizer : tokenizer.with_config(config);
}

std::optional<std::string> load_chat_template(const Checkpoint& checkpoint) {
  const TokenizerSource& source = checkpoint.tokenizer;
  if (source.gguf) {
    constexpr const char* kKey = "tokenizer.chat_template";
    if (!source.gguf->contains(kKey)) return std::nullopt;
    return std::string(source.gguf->string(kKey));
  }
  if (!source.tokenizer_json) return std::nullopt;
  const std::filesystem::path file = source.tokenizer_json->parent_path() / "chat_template.jinja";
  if (std::filesystem::exists(file)) return read_text_file(file, kMaxModelTextBytes);
  const Json config = tokenizer_config(*source.tokenizer_json);
  return config.is_null() ? std::nullopt : chat_template_of_config(config);
}

std::optional<int32_t> prefix_token(const Checkpoint& checkpoint, const Tokenizer* tokenizer) {
  if (tokenizer != nullptr && tokenizer->special().bos) return tokenizer->special().bos;
  if (checkpoint.spec.bos_token) return checkpoint.spec.bos_token;
  if (tokenizer != nullptr && tokenizer->special().eos) return tokenizer->special().eos;
  if (!checkpoint.spec.eos_tokens.empty()) return checkpoint.spec.eos_tokens.front();
  return std::nullopt;
}

}  // namespace fewbit
