#include "fewbit/text/byte_tokenizer.h"

#include <unordered_set>

#include "fewbit/base/json.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

constexpr size_t kBytes = 256;

// Keys in the order they are written: readers of tokenizer.json see the vocabulary by id.
using OrderedJson = nlohmann::ordered_json;

OrderedJson added_token(size_t id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

}  // namespace

std::string byte_level_tokenizer_json(std::span<const std::pair<TokenId, TokenId>> merges,
                                      std::span<const std::string> special_tokens, bool split) {
  std::vector<std::string> tokens;
  std::unordered_set<std::string> known;
  for (size_t byte = 0; byte < kBytes; ++byte) {
    tokens.push_back(to_utf8(byte_symbol(static_cast<uint8_t>(byte))));
    known.insert(tokens.back());
  }
  OrderedJson merge_list = OrderedJson::array();
  for (const auto& [left, right] : merges) {
    const std::string a = tokens.at(static_cast<size_t>(left));
    const std::string b = tokens.at(static_cast<size_t>(right));
    merge_list.push_back(a + " " + b);
    if (known.insert(a + b).second) tokens.push_back(a + b);
  }
  OrderedJson vocabulary = OrderedJson::object();
  // Not vocabulary[token]: an ordered object looks for each key among all.
  auto& entries = vocabulary.get_ref<OrderedJson::object_t&>();
  for (size_t id = 0; id < tokens.size(); ++id) entries.emplace_back(tokens[id], id);
  OrderedJson added = OrderedJson::array();
  for (const std::string& token : special_tokens) {
    added.push_back(added_token(tokens.size() + added.size(), token));
  }
  const auto byte_level = [](bool use_regex) -> OrderedJson {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", use_regex}};
  };
  const OrderedJson file = {{"version", "1.0"},
                            {"truncation", nullptr},
                            {"padding", nullptr},
                            {"added_tokens", added},
                            {"normalizer", nullptr},
                            {"pre_tokenizer", byte_level(split)},
                            {"post_processor", byte_level(split)},
                            {"decoder", byte_level(true)},
                            {"model",
                             {{"type", "BPE"},
                              {"dropout", nullptr},
                              {"unk_token", nullptr},
                              {"continuing_subword_prefix", nullptr},
                              {"end_of_word_suffix", nullptr},
                              {"fuse_unk", false},
                              {"byte_fallback", false},
                              {"ignore_merges", false},
                              {"vocab", vocabulary},
                              {"merges", merge_list}}}};
  return file.dump(1) + "\n";
}

std::string byte_tokenizer_json(std::span<const std::string> special_tokens) {
  return byte_level_tokenizer_json({}, special_tokens, false);
}

std::string tokenizer_config_json(std::string_view end_token) {
  const OrderedJson file = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                            {"bos_token", end_token},
                            {"eos_token", end_token},
                            {"clean_up_tokenization_spaces", false}};
  return file.dump(1) + "\n";
}

}  // namespace fewbit
