// Tokenizer::from_json: the schema of Hugging Face's tokenizers library.
#include <set>

#include "fewbit/base/file.h"
#include "fewbit/text/json_component.h"
#include "fewbit/text/tokenizer_parts.h"

namespace fewbit {
namespace {

constexpr size_t kMaxTemplateTokens = 64;

const Json& component_or_null(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

const std::string& string_of(const Json& value) {
  require(value.is_string(), "{} is not a string", value.dump().substr(0, 80));
  return value.get_ref<const std::string&>();
}

TokenId id_of(const Json& value) {
  require(value.is_number_unsigned() && value.get<uint64_t>() < kMaxVocabulary,
          "{} is not a token id of 0 to {}", value.dump().substr(0, 80), kMaxVocabulary - 1);
  return static_cast<TokenId>(value.get<uint64_t>());
}

void refuse_affix(const Json& model, const char* key) {
  const std::string affix = json_get_or<std::string>(model, key, "");
  require(affix.empty(), "key '{}': '{}' is not supported, only null", key, affix);
}

// "left right", or ["left", "right"].
std::pair<std::string_view, std::string_view> read_pair(const Json& merge) {
  if (merge.is_array()) {
    require(merge.size() == 2, "expected two tokens");
    return {string_of(merge[0]), string_of(merge[1])};
  }
  const std::string_view text = string_of(merge);
  const size_t space = text.find(' ');
  require(space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos,
          "'{}' is not two tokens with one space between", text);
  return {text.substr(0, space), text.substr(space + 1)};
}

std::optional<TokenId> read_unknown(const Json& model, const Vocabulary& vocabulary) {
  const std::string token = json_get_or<std::string>(model, "unk_token", "");
  if (token.empty()) return std::nullopt;
  const std::optional<TokenId> id = vocabulary.find(token);
  require(id.has_value(), "key 'unk_token': the vocabulary has no '{}'", token);
  return id;
}

MergeTable read_merges(const Json& model, const Vocabulary& vocabulary) {
  MergeTable merges;
  uint32_t rank = 0;
  for_each_component(model, "merges", [&](const Json& merge) {
    const auto [left, right] = read_pair(merge);
    const std::string both = std::string(left) + std::string(right);
    const auto find = [&](std::string_view token) {
      const std::optional<TokenId> id = vocabulary.find(token);
      require(id.has_value(), "the vocabulary has no '{}'", token);
      return *id;
    };
    const TokenId left_id = find(left), right_id = find(right);
    merges.set(left_id, right_id, {rank++, find(both)});
  });
  return merges;
}

struct Model {
  std::shared_ptr<const Vocabulary> vocabulary;
  std::variant<BpeModel, UnigramModel> model;
  std::optional<TokenId> unknown;
  bool byte_fallback = false;
};

// Contents of special tokens: a model must not make them of plain text, so it does not know them.
using Specials = std::set<std::string, std::less<>>;

Model read_bpe(const Json& model, bool bytes, const Specials& specials) {
  refuse_affix(model, "continuing_subword_prefix");
  refuse_affix(model, "end_of_word_suffix");
  require(json_get_or(model, "dropout", 0.0) == 0.0,
          "key 'dropout': encoding with dropout is not supported, only null");
  auto vocabulary = std::make_shared<Vocabulary>(), plain = std::make_shared<Vocabulary>();
  const auto tokens = model.find("vocab");
  require(tokens != model.end() && tokens->is_object(), "key 'vocab' is not an object");
  for (const auto& [text, id] : tokens->items()) {
    try {
      vocabulary->set(id_of(id), text);
      if (!specials.contains(text)) plain->set(id_of(id), text);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("vocab['{}']", text.substr(0, 80)));
    }
  }
  BpeOptions options;
  options.bytes = bytes;
  options.byte_fallback = json_get_or(model, "byte_fallback", false);
  options.fuse_unknown = json_get_or(model, "fuse_unk", false);
  options.ignore_merges = json_get_or(model, "ignore_merges", false);
  options.unknown = read_unknown(model, *vocabulary);
  MergeTable merges = read_merges(model, *vocabulary);
  return {vocabulary, BpeModel(plain, std::move(merges), options), options.unknown,
          options.byte_fallback};
}

Model read_unigram(const Json& model, const Specials& specials) {
  auto vocabulary = std::make_shared<Vocabulary>();
  std::vector<double> scores;
  std::vector<bool> plain;
  for_each_component(model, "vocab", [&](const Json& entry) {
    require(entry.is_array() && entry.size() == 2 && entry[1].is_number(),
            "expected [token, score]");
    vocabulary->set(static_cast<TokenId>(scores.size()), string_of(entry[0]));
    scores.push_back(entry[1].get<double>());
    plain.push_back(!specials.contains(string_of(entry[0])));
  });
  require(!scores.empty(), "key 'vocab' is empty");
  std::optional<TokenId> unknown;
  if (!component_or_null(model, "unk_id").is_null()) {
    unknown = static_cast<TokenId>(json_get_size(model, "unk_id", scores.size() - 1));
  }
  const bool byte_fallback = json_get_or(model, "byte_fallback", false);
  return {vocabulary, UnigramModel(vocabulary, std::move(scores), plain, unknown, byte_fallback),
          unknown, byte_fallback};
}

Model read_model(const Json& model, bool bytes, const Specials& specials) {
  require(model.is_object(), "expected an object");
  // The oldest files do not name the type.
  const std::string type =
      json_get_or<std::string>(model, "type", model.contains("merges") ? "BPE" : "");
  if (type == "BPE") return read_bpe(model, bytes, specials);
  require(type == "Unigram", "type '{}' is not supported; supported: BPE, Unigram", type);
  require(!bytes, "type 'Unigram' with a ByteLevel pre-tokenizer is not supported");
  return read_unigram(model, specials);
}

AddedToken read_added_token(const Json& entry) {
  require(entry.is_object(), "expected an object");
  AddedToken token;
  token.id = with_context("key 'id'", [&] { return id_of(component_or_null(entry, "id")); });
  token.content = json_get<std::string>(entry, "content");
  token.special = json_get_or(entry, "special", false);
  token.normalized = json_get_or(entry, "normalized", !token.special);
  token.lstrip = json_get_or(entry, "lstrip", false);
  token.rstrip = json_get_or(entry, "rstrip", false);
  token.single_word = json_get_or(entry, "single_word", false);
  return token;
}

// What a post-processor puts around one text.
class Template {
 public:
  Template(const Vocabulary& vocabulary, std::vector<TokenId>& prefix, std::vector<TokenId>& suffix)
      : vocabulary_(vocabulary), prefix_(prefix), suffix_(suffix) {}

  void read(const Json& component) {
    const std::string type = component_type(component);
    if (type == "Sequence") {
      for_each_component(component, "processors", [&](const Json& item) { read(item); });
    } else if (type == "TemplateProcessing") {
      read_template(component);
    } else if (type == "RobertaProcessing" || type == "BertProcessing") {
      wrap({read_named(component, "cls")}, {read_named(component, "sep")});
    } else {
      // ByteLevel moves offsets only.
      require(type == "ByteLevel",
              "type '{}' is not supported; supported: Sequence, TemplateProcessing, ByteLevel, "
              "RobertaProcessing, BertProcessing",
              type);
    }
  }

 private:
  void read_template(const Json& component) {
    std::vector<TokenId> before, after;
    bool seen = false;
    for_each_component(component, "single", [&](const Json& item) {
      require(item.is_object() && item.size() == 1, "expected SpecialToken or Sequence");
      if (item.contains("Sequence")) {
        const auto sequence = json_get<std::string>(item["Sequence"], "id");
        require(sequence == "A" && !seen, "a template for one text holds the Sequence A once");
        seen = true;
        return;
      }
      const auto name = json_get<std::string>(json_get<Json>(item, "SpecialToken"), "id");
      const Json& tokens = component_or_null(component, "special_tokens");
      require(tokens.is_object() && tokens.contains(name), "key 'special_tokens' has no '{}'",
              name);
      for_each_component(tokens[name], "ids",
                         [&](const Json& id) { (seen ? after : before).push_back(checked(id)); });
    });
    require(seen, "key 'single' has no Sequence");
    wrap(before, after);
  }

  TokenId read_named(const Json& component, const char* key) {
    const Json& pair = component_or_null(component, key);
    return with_context(fmt::format("key '{}'", key), [&] {
      require(pair.is_array() && pair.size() == 2, "expected [token, id]");
      return checked(pair[1]);
    });
  }

  TokenId checked(const Json& value) const {
    const TokenId id = id_of(value);
    require(vocabulary_.contains(id), "the vocabulary has no id {}", id);
    return id;
  }

  void wrap(const std::vector<TokenId>& before, const std::vector<TokenId>& after) {
    prefix_.insert(prefix_.begin(), before.begin(), before.end());
    suffix_.insert(suffix_.end(), after.begin(), after.end());
    require(prefix_.size() + suffix_.size() <= kMaxTemplateTokens,
            "a template of more than {} tokens", kMaxTemplateTokens);
  }

  const Vocabulary& vocabulary_;
  std::vector<TokenId>&prefix_, &suffix_;
};

bool is_byte_token(std::string_view text) {
  return text.size() == 6 && text.starts_with("<0x") && text.back() == '>';
}

std::shared_ptr<TokenizerParts> read_parts(const Json& file) {
  require(file.is_object(), "expected an object");
  const auto read_at = [&](const char* key, const auto& read) {
    return with_context(key, [&] { return read(component_or_null(file, key)); });
  };
  PreTokenizer pre_tokenizer = read_at("pre_tokenizer", PreTokenizer::from_json);
  std::vector<AddedToken> added;
  Specials specials;
  if (!component_or_null(file, "added_tokens").is_null()) {
    for_each_component(file, "added_tokens", [&](const Json& entry) {
      added.push_back(read_added_token(entry));
      if (added.back().special) specials.insert(added.back().content);
    });
  }
  Model model = read_at("model", [&](const Json& value) {
    return read_model(value, pre_tokenizer.byte_level(), specials);
  });
  auto parts = std::make_shared<TokenizerParts>(std::move(model.model));
  parts->pre_tokenizer = std::move(pre_tokenizer);
  parts->normalizer = read_at("normalizer", Normalizer::from_json);
  parts->decoder = read_at("decoder", TokenDecoder::from_json);

  auto vocabulary = std::make_shared<Vocabulary>(*model.vocabulary);
  std::vector<AddedToken> raw, normalized;
  for (size_t i = 0; i < added.size(); ++i) {
    with_context(fmt::format("added_tokens[{}]", i), [&] {
      AddedToken& token = added[i];
      const std::optional<TokenId> known = vocabulary->find(token.content);
      require(!known || *known == token.id, "'{}' has id {} here and {} in the vocabulary",
              token.content, token.id, known.value_or(0));
      vocabulary->set(token.id, token.content);
      (token.normalized ? normalized : raw).push_back(std::move(token));
    });
  }
  require(vocabulary->count() > 0, "the vocabulary is empty");

  parts->types.assign(vocabulary->size(), TokenType::normal);
  if (model.byte_fallback) {
    for (TokenId id = 0; id < static_cast<TokenId>(vocabulary->size()); ++id) {
      if (is_byte_token(vocabulary->text(id))) {
        parts->types[static_cast<size_t>(id)] = TokenType::byte;
      }
    }
  }
  Normalizer::Scratch scratch = parts->normalizer.make_scratch();
  for (std::vector<AddedToken>* tokens : {&raw, &normalized}) {
    for (AddedToken& token : *tokens) {
      parts->types[static_cast<size_t>(token.id)] = !token.special ? TokenType::user_defined
                                                    : token.id == model.unknown
                                                        ? TokenType::unknown
                                                        : TokenType::control;
      // Matched where the normalized text shows it, so written as the normalizer writes it.
      if (token.normalized && !parts->normalizer.empty()) {
        token.content = parts->normalizer.apply(token.content, scratch).text;
        parts->normalized_text[token.id] = token.content;
      }
    }
  }
  parts->raw_added = AddedTokens(std::move(raw));
  parts->normalized_added = AddedTokens(std::move(normalized));

  read_at("post_processor", [&](const Json& component) {
    if (!component.is_null()) Template(*vocabulary, parts->prefix, parts->suffix).read(component);
  });
  if (!parts->prefix.empty()) parts->special.bos = parts->prefix.front();
  if (!parts->suffix.empty()) parts->special.eos = parts->suffix.back();
  parts->special.unknown = model.unknown;
  parts->vocabulary = std::move(vocabulary);
  return parts;
}

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view what) {
  const Json file = parse_json(text, what);
  return with_context(what, [&] {
    std::shared_ptr<TokenizerParts> parts = read_parts(file);
    parts->source_hash = sha256_hex(text);
    return Tokenizer(std::move(parts));
  });
}

}  // namespace fewbit
