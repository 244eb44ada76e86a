#include "fewbit/text/tokenizer.h"

#include <algorithm>
#include <array>

#include "fewbit/base/file.h"
#include "fewbit/text/tokenizer_parts.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

// Control tokens that end a turn or a text in the chat formats of published models; files often
// name only one of them as EOS.
constexpr std::array<std::string_view, 7> kEndTokens = {
    "<|im_end|>",    "<|eot_id|>",      "<|end|>",    "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>",
};

}  // namespace

std::string TokenizerParts::decoder_token(TokenId id) const {
  if (const auto found = normalized_text.find(id); found != normalized_text.end()) {
    return found->second;
  }
  const std::string_view text = vocabulary->text(id);
  const TokenType type = types[static_cast<size_t>(id)];
  if (literal_added_tokens && type != TokenType::normal) return to_byte_symbols(text);
  if (!marks_in_normal_tokens || type != TokenType::normal) return std::string(text);
  constexpr std::string_view kMark = "\u2581";
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool mark = text.substr(i).starts_with(kMark);
    out += mark ? ' ' : text[i];
    i += mark ? kMark.size() : 1;
  }
  return out;
}

std::unique_ptr<TokenizerParts::Scratch> TokenizerParts::take_scratch() const {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Scratch> scratch = std::move(idle_.back());
      idle_.pop_back();
      return scratch;
    }
  }
  auto scratch = std::make_unique<Scratch>();
  scratch->normalizer = normalizer.make_scratch();
  scratch->pre_tokenizer = pre_tokenizer.make_scratch();
  if (std::holds_alternative<UnigramModel>(model)) scratch->model.emplace<UnigramModel::Scratch>();
  return scratch;
}

void TokenizerParts::give_back(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(scratch));
}

void TokenizerParts::encode(std::string_view text, bool parse_special,
                            std::vector<TokenId>& out) const {
  std::unique_ptr<Scratch> scratch = take_scratch();
  const auto on_token = [&](TokenId id) { out.push_back(id); };
  const PreTokenizer::Sink on_piece = [&](Piece piece) {
    if (const auto* bpe = std::get_if<BpeModel>(&model)) {
      bpe->encode(piece.text, std::get<BpeModel::Scratch>(scratch->model), out);
    } else {
      std::get<UnigramModel>(model).encode(piece.text,
                                           std::get<UnigramModel::Scratch>(scratch->model), out);
    }
  };
  const auto on_normalized = [&](std::string_view normalized, bool starts_text) {
    normalized_added.cut(
        normalized, parse_special,
        [&](TextRange range) {
          pre_tokenizer.split({normalized.substr(range.begin, range.end - range.begin),
                               starts_text && range.begin == 0},
                              scratch->pre_tokenizer, on_piece);
        },
        on_token);
  };
  raw_added.cut(
      text, parse_special,
      [&](TextRange range) {
        const std::string_view part = text.substr(range.begin, range.end - range.begin);
        if (normalizer.empty()) return on_normalized(part, range.begin == 0);
        const Normalizer::Result result = normalizer.apply(part, scratch->normalizer);
        on_normalized(result.text, range.begin == 0 && !result.front_removed);
      },
      on_token);
  give_back(std::move(scratch));
}

Tokenizer::Tokenizer(std::shared_ptr<const TokenizerParts> parts)
    : parts_(std::move(parts)),
      special_(parts_->special),
      prefix_(parts_->prefix),
      suffix_(parts_->suffix) {
  settle();
}

// What follows from the special tokens.
void Tokenizer::settle() {
  std::vector<TokenId>& ends = special_.end_of_generation;
  if (special_.eos) ends.push_back(*special_.eos);
  for (const std::string_view name : kEndTokens) {
    const std::optional<TokenId> id = parts_->vocabulary->find(name);
    if (id && type(*id) == TokenType::control) ends.push_back(*id);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  std::string description = parts_->source_hash;
  for (const TokenId id : prefix_) description += fmt::format(" prefix {}", id);
  for (const TokenId id : suffix_) description += fmt::format(" suffix {}", id);
  fingerprint_ = sha256_hex(description);
}

Tokenizer Tokenizer::with_config(const Json& config) const {
  require(config.is_object(), "tokenizer_config.json is not an object");
  const auto read_token = [&](const char* key, std::optional<TokenId> fallback) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) return fallback;
    const std::string text =
        found->is_object() ? with_context(fmt::format("key '{}'", key),
                                          [&] { return json_get<std::string>(*found, "content"); })
                           : json_get<std::string>(config, key);
    const std::optional<TokenId> id = find(text);
    require(id.has_value(), "key '{}': the vocabulary has no token '{}'", key, text);
    return id;
  };
  Tokenizer result = *this;
  SpecialTokens& special = result.special_;
  special.end_of_generation.clear();
  special.bos = read_token("bos_token", special.bos);
  special.eos = read_token("eos_token", special.eos);
  special.pad = read_token("pad_token", special.pad);
  special.unknown = read_token("unk_token", special.unknown);
  // The file's own template wins where the key is absent.
  const auto apply = [&](const char* key, std::optional<TokenId> id, std::vector<TokenId>& ids) {
    if (!config.contains(key) || config[key].is_null()) return;
    const bool add = json_get<bool>(config, key);
    require(!add || id.has_value(), "key '{}' is true, but there is no such token", key);
    if (!add && id) std::erase(ids, *id);
    if (add && std::find(ids.begin(), ids.end(), *id) == ids.end()) {
      ids.insert(key == std::string_view("add_bos_token") ? ids.begin() : ids.end(), *id);
    }
  };
  apply("add_bos_token", special.bos, result.prefix_);
  apply("add_eos_token", special.eos, result.suffix_);
  result.settle();
  return result;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<TokenId> ids;
  encode(text, options, ids);
  return ids;
}

void Tokenizer::encode(std::string_view text, EncodeOptions options,
                       std::vector<TokenId>& out) const {
  if (options.add_special) out.insert(out.end(), prefix_.begin(), prefix_.end());
  if (valid_utf8_prefix(text) == text.size()) {
    parts_->encode(text, options.parse_special, out);
  } else {
    parts_->encode(replace_invalid_utf8(text), options.parse_special, out);
  }
  if (options.add_special) out.insert(out.end(), suffix_.begin(), suffix_.end());
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const TokenId id : ids) {
    if (!parts_->vocabulary->contains(id)) continue;
    const bool special = type(id) == TokenType::control || type(id) == TokenType::unknown;
    if (skip_special && special) continue;
    tokens.push_back(parts_->decoder_token(id));
  }
  return parts_->decoder.decode(std::move(tokens));
}

std::string Tokenizer::token_bytes(TokenId id) const {
  if (!parts_->vocabulary->contains(id)) return {};
  return parts_->decoder.token_bytes(parts_->decoder_token(id));
}

std::string Tokenizer::token_text(TokenId id) const {
  return std::string(parts_->vocabulary->text(id));
}

std::optional<TokenId> Tokenizer::find(std::string_view token_text) const {
  return parts_->vocabulary->find(token_text);
}

TokenType Tokenizer::type(TokenId id) const {
  return parts_->vocabulary->contains(id) ? parts_->types[static_cast<size_t>(id)]
                                          : TokenType::unused;
}

size_t Tokenizer::vocabulary_size() const { return parts_->vocabulary->size(); }

}  // namespace fewbit
