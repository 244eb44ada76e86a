#include "fewbit/text/gguf_vocabulary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <fmt/ranges.h>

#include "fewbit/base/file.h"
#include "fewbit/text/tokenizer_parts.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

// Values of tokenizer.ggml.token_type.
enum GgufTokenType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// A SentencePiece token has a few dozen characters; the table of merges grows with the square.
constexpr size_t kMaxMergedTokenBytes = 1024;

constexpr std::string_view kWords = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
constexpr std::string_view kWhiteSpace = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kPunctuation = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)";

Json sequence(std::initializer_list<std::string> patterns) {
  Json items = Json::array();
  for (const std::string& pattern : patterns) {
    items.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}});
  }
  items.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", items}};
}

Json gpt2() { return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}; }

Json digits_then_gpt2() {
  return {{"type", "Sequence"},
          {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, gpt2()}}};
}

Json words(std::string_view numbers) {
  return sequence({fmt::format("{}{}{}{}", kWords, numbers, kPunctuation, kWhiteSpace)});
}

Json qwen35() {
  return sequence(
      {fmt::format(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+)"
                   R"(|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{})",
                   kWhiteSpace)});
}

Json deepseek3() {
  return sequence(
      {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)",
       fmt::format(
           R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+)"
           R"(|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*{})",
           kWhiteSpace)});
}

// What a name in `pre` stands for: the pipeline of the model that it names.
struct NamedPipeline {
  Json pre_tokenizer;
  bool nfc = false;
  bool ignore_merges = false, add_bos = false;
};

const std::map<std::string, NamedPipeline, std::less<>>& named_pipelines() {
  static const auto* table = [] {
    auto* made = new std::map<std::string, NamedPipeline, std::less<>>;
    for (const char* name : {"gpt-2", "olmo", "mpt"}) (*made)[name] = {gpt2()};
    for (const char* name : {"llama-bpe", "llama3", "llama-v3"}) {
      (*made)[name] = {words(R"(\p{N}{1,3})"), false, true, true};
    }
    for (const char* name : {"qwen2", "deepseek-r1-qwen"}) {
      (*made)[name] = {words(R"(\p{N})"), true};
    }
    (*made)["qwen35"] = {qwen35(), true};
    for (const char* name : {"smollm", "starcoder", "refact", "command-r"}) {
      (*made)[name] = {digits_then_gpt2()};
    }
    (*made)["deepseek-v3"] = {deepseek3(), false, false, true};
    return made;
  }();
  return *table;
}

NamedPipeline find_pipeline(const GgufVocabulary& vocabulary) {
  const std::string& pre = vocabulary.pre;
  if (pre.empty() || pre == "default") {
    if (vocabulary.architecture == "gptneox") return {gpt2(), true};
    if (vocabulary.architecture == "gpt2") return {gpt2()};
  }
  const auto found = named_pipelines().find(pre);
  require(found != named_pipelines().end(),
          "key 'tokenizer.ggml.pre': {} names no pre-tokenizer that is known; known: {}",
          pre.empty() ? "absent, which" : fmt::format("'{}'", pre),
          fmt::join(gguf_pre_tokenizer_names(), ", "));
  return found->second;
}

TokenType token_type(int32_t type) {
  switch (type) {
    case kNormal:
      return TokenType::normal;
    case kUnknown:
      return TokenType::unknown;
    case kControl:
      return TokenType::control;
    case kUserDefined:
      return TokenType::user_defined;
    case kUnused:
      return TokenType::unused;
    case kByte:
      return TokenType::byte;
    default:
      fail("key 'tokenizer.ggml.token_type': {}; allowed: 1 to 6", type);
  }
}

bool is_special(TokenType type) { return type == TokenType::control || type == TokenType::unknown; }

// Merges of a byte-level vocabulary, "left right".
MergeTable read_merges(const GgufVocabulary& source, const Vocabulary& vocabulary) {
  MergeTable merges;
  for (size_t i = 0; i < source.merges.size(); ++i) {
    const std::string_view merge = source.merges[i];
    const size_t space = merge.find(' ', 1);
    const auto left = vocabulary.find(merge.substr(0, space));
    const auto right =
        space < merge.size() ? vocabulary.find(merge.substr(space + 1)) : std::nullopt;
    const auto both = left && right ? vocabulary.find(std::string(vocabulary.text(*left)) +
                                                      std::string(vocabulary.text(*right)))
                                    : std::nullopt;
    require(both.has_value(), "key 'tokenizer.ggml.merges': '{}' (number {}) does not join tokens",
            merge, i);
    merges.set(*left, *right, {static_cast<uint32_t>(i), *both});
  }
  return merges;
}

// Every way in which a token is made of two symbols, ranked by its score. A symbol is a token or
// one character; characters that are no tokens are numbered in `extra`.
MergeTable merges_from_scores(const GgufVocabulary& source, const std::vector<TokenType>& types,
                              Vocabulary& extra) {
  // Control tokens are not text, and <0x41> is not made of its six characters.
  Vocabulary mergeable;
  std::vector<float> scores;
  const auto size = static_cast<TokenId>(source.tokens.size());
  for (TokenId id = 0; id < size; ++id) {
    const auto i = static_cast<size_t>(id);
    if (is_special(types[i]) || types[i] == TokenType::byte) continue;
    mergeable.set(id, source.tokens[i]);
    require(!std::isnan(source.scores[i]), "key 'tokenizer.ggml.scores': token {} has NaN", id);
    scores.push_back(source.scores[i]);
  }
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());

  const auto symbol = [&](std::string_view text) -> std::optional<TokenId> {
    if (const std::optional<TokenId> id = mergeable.find(text)) return id;
    if (decode_utf8(text, 0).length != text.size()) return std::nullopt;
    if (const std::optional<TokenId> known = extra.find(text)) return size + *known;
    const auto next = static_cast<TokenId>(extra.size());
    extra.set(next, text);
    return size + next;
  };
  MergeTable merges;
  for (TokenId id = 0; id < size; ++id) {
    const std::string_view token = mergeable.text(id);
    if (token.empty() || mergeable.find(token) != id) continue;
    require(token.size() <= kMaxMergedTokenBytes ||
                types[static_cast<size_t>(id)] == TokenType::user_defined,
            "key 'tokenizer.ggml.tokens': token {} has {} bytes; at most {}", id, token.size(),
            kMaxMergedTokenBytes);
    if (token.size() > kMaxMergedTokenBytes) continue;
    const float score = source.scores[static_cast<size_t>(id)];
    const auto rank = static_cast<uint32_t>(
        std::lower_bound(scores.begin(), scores.end(), score, std::greater<>()) - scores.begin());
    for (size_t cut = decode_utf8(token, 0).length; cut < token.size();
         cut += decode_utf8(token, cut).length) {
      const std::optional<TokenId> left = symbol(token.substr(0, cut));
      if (!left) continue;
      const std::optional<TokenId> right = symbol(token.substr(cut));
      if (right) merges.set(*left, *right, {rank, id});
    }
  }
  return merges;
}

std::string hash_of(const GgufVocabulary& source) {
  std::string all = fmt::format("{} {} {} {}\n", source.architecture, source.model, source.pre,
                                source.add_space_prefix.value_or(true));
  const auto add = [&](const std::string& text) { all += fmt::format("{}:{}", text.size(), text); };
  for (const std::string& token : source.tokens) add(token);
  for (const std::string& merge : source.merges) add(merge);
  all.append(reinterpret_cast<const char*>(source.scores.data()),
             source.scores.size() * sizeof(float));
  all.append(reinterpret_cast<const char*>(source.types.data()),
             source.types.size() * sizeof(int32_t));
  return sha256_hex(all);
}

struct Tokens {
  std::vector<TokenType> types;
  std::shared_ptr<Vocabulary> all = std::make_shared<Vocabulary>();
  // Those that text can become.
  std::shared_ptr<Vocabulary> plain = std::make_shared<Vocabulary>();
  std::vector<AddedToken> added;
};

Tokens read_tokens(const GgufVocabulary& source) {
  const size_t count = source.tokens.size();
  require(count > 0, "key 'tokenizer.ggml.tokens' is empty");
  require(source.types.empty() || source.types.size() == count,
          "key 'tokenizer.ggml.token_type': {} types for {} tokens", source.types.size(), count);
  Tokens tokens;
  for (size_t i = 0; i < count; ++i) {
    const auto id = static_cast<TokenId>(i);
    const std::string& text = source.tokens[i];
    require(valid_utf8_prefix(text) == text.size(),
            "key 'tokenizer.ggml.tokens': token {} is not UTF-8", i);
    const TokenType type = source.types.empty() ? TokenType::normal : token_type(source.types[i]);
    tokens.types.push_back(type);
    with_context("key 'tokenizer.ggml.tokens'", [&] {
      tokens.all->set(id, text);
      if (!is_special(type)) tokens.plain->set(id, text);
    });
    if (is_special(type) || type == TokenType::user_defined) {
      AddedToken added;
      added.id = id;
      added.content = text;
      added.special = is_special(type);
      tokens.added.push_back(std::move(added));
    }
  }
  return tokens;
}

std::optional<TokenId> checked_id(const char* key, std::optional<TokenId> id,
                                  const Vocabulary& vocabulary) {
  require(!id || vocabulary.contains(*id), "key '{}': {} is not a token of 0 to {}", key,
          id.value_or(0), vocabulary.size() - 1);
  return id;
}

}  // namespace

std::vector<std::string> gguf_pre_tokenizer_names() {
  std::vector<std::string> names;
  for (const auto& [name, pipeline] : named_pipelines()) names.push_back(name);
  return names;
}

GgufVocabulary read_gguf_vocabulary(const GgufFile& file) {
  GgufVocabulary vocabulary;
  const auto text = [&](const char* key) { return std::string(file.string_or(key, "")); };
  vocabulary.architecture = text("general.architecture");
  vocabulary.model = text("tokenizer.ggml.model");
  require(!vocabulary.model.empty() && vocabulary.model != "no_vocab",
          "{}: the file has no tokenizer (key 'tokenizer.ggml.model')", file.what());
  vocabulary.pre = text("tokenizer.ggml.pre");
  const auto strings = [&](const char* key, std::vector<std::string>& out) {
    if (!file.contains(key)) return;
    for (const std::string_view item : file.strings(key)) out.emplace_back(item);
  };
  strings("tokenizer.ggml.tokens", vocabulary.tokens);
  strings("tokenizer.ggml.merges", vocabulary.merges);
  if (file.contains("tokenizer.ggml.scores")) {
    vocabulary.scores = file.floats("tokenizer.ggml.scores");
  }
  if (file.contains("tokenizer.ggml.token_type")) {
    for (const int64_t type : file.integers("tokenizer.ggml.token_type")) {
      require(type >= kNormal && type <= kByte,
              "{}: key 'tokenizer.ggml.token_type': {}; allowed: 1 to 6", file.what(), type);
      vocabulary.types.push_back(static_cast<int32_t>(type));
    }
  }
  const auto id = [&](const char* key) -> std::optional<TokenId> {
    if (!file.contains(key)) return std::nullopt;
    return static_cast<TokenId>(file.size(key, kMaxVocabulary - 1));
  };
  vocabulary.bos = id("tokenizer.ggml.bos_token_id");
  vocabulary.eos = id("tokenizer.ggml.eos_token_id");
  vocabulary.eot = id("tokenizer.ggml.eot_token_id");
  vocabulary.unknown = id("tokenizer.ggml.unknown_token_id");
  vocabulary.padding = id("tokenizer.ggml.padding_token_id");
  const auto flag = [&](const char* key) -> std::optional<bool> {
    if (!file.contains(key)) return std::nullopt;
    return file.boolean(key);
  };
  vocabulary.add_bos = flag("tokenizer.ggml.add_bos_token");
  vocabulary.add_eos = flag("tokenizer.ggml.add_eos_token");
  vocabulary.add_space_prefix = flag("tokenizer.ggml.add_space_prefix");
  return vocabulary;
}

Tokenizer make_tokenizer(const GgufVocabulary& source) {
  require(source.model == "gpt2" || source.model == "llama",
          "key 'tokenizer.ggml.model': '{}' is not supported; supported: gpt2, llama",
          source.model);
  const bool sentencepiece = source.model == "llama";
  Tokens tokens = read_tokens(source);

  SpecialTokens special;
  special.bos = source.bos;
  special.eos = source.eos;
  special.unknown = source.unknown;
  special.pad = checked_id("tokenizer.ggml.padding_token_id", source.padding, *tokens.all);
  bool add_bos = false;
  BpeOptions options;
  Json normalizer, pre_tokenizer;
  TokenDecoder decoder;
  MergeTable merges;
  Vocabulary extra;
  if (sentencepiece) {
    require(source.scores.size() == source.tokens.size(),
            "key 'tokenizer.ggml.scores': {} scores for {} tokens", source.scores.size(),
            source.tokens.size());
    // The defaults of SentencePiece's Llama vocabulary.
    constexpr TokenId kUnknownId = 0, kBosId = 1, kEosId = 2;
    if (!special.bos) special.bos = kBosId;
    if (!special.eos) special.eos = kEosId;
    if (!special.unknown) special.unknown = kUnknownId;
    add_bos = true;
    options.byte_fallback = true;
    options.unknown = special.unknown;
    merges = merges_from_scores(source, tokens.types, extra);
    const bool space_prefix = source.add_space_prefix.value_or(true);
    normalizer = {{"type", "Sequence"}, {"normalizers", Json::array()}};
    if (space_prefix) {
      normalizer["normalizers"].push_back({{"type", "Prepend"}, {"prepend", "\u2581"}});
    }
    normalizer["normalizers"].push_back(
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}});
    decoder = TokenDecoder::byte_fallback(space_prefix);
  } else {
    const NamedPipeline pipeline = find_pipeline(source);
    options.bytes = true;
    options.ignore_merges = pipeline.ignore_merges;
    add_bos = pipeline.add_bos;
    merges = read_merges(source, *tokens.all);
    if (pipeline.nfc) normalizer = {{"type", "NFC"}};
    pre_tokenizer = pipeline.pre_tokenizer;
    decoder = TokenDecoder::byte_level();
  }
  checked_id("tokenizer.ggml.bos_token_id", special.bos, *tokens.all);
  checked_id("tokenizer.ggml.eos_token_id", special.eos, *tokens.all);
  checked_id("tokenizer.ggml.unknown_token_id", special.unknown, *tokens.all);
  if (const auto eot = checked_id("tokenizer.ggml.eot_token_id", source.eot, *tokens.all)) {
    special.end_of_generation.push_back(*eot);
  }

  auto parts = std::make_shared<TokenizerParts>(
      BpeModel(tokens.plain, std::move(merges), options, std::move(extra),
               static_cast<TokenId>(source.tokens.size())));
  parts->vocabulary = tokens.all;
  parts->types = std::move(tokens.types);
  parts->raw_added = AddedTokens(std::move(tokens.added));
  parts->normalizer = Normalizer::from_json(normalizer);
  parts->pre_tokenizer = PreTokenizer::from_json(pre_tokenizer);
  parts->decoder = std::move(decoder);
  parts->marks_in_normal_tokens = sentencepiece;
  parts->literal_added_tokens = !sentencepiece;
  const auto add = [](const char* key, bool wanted, std::optional<TokenId> id,
                      std::vector<TokenId>& ids) {
    require(!wanted || id.has_value(), "key '{}': the file names no such token", key);
    if (wanted) ids.push_back(*id);
  };
  add("tokenizer.ggml.add_bos_token", source.add_bos.value_or(add_bos), special.bos, parts->prefix);
  add("tokenizer.ggml.add_eos_token", source.add_eos.value_or(false), special.eos, parts->suffix);
  parts->special = std::move(special);
  parts->source_hash = hash_of(source);
  return Tokenizer(std::move(parts));
}

}  // namespace fewbit
