#include "fewbit/text/unigram.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

constexpr double kUnknownPenalty = 10;
constexpr TokenId kUnknownNode = INT32_MAX;

}  // namespace

UnigramModel::UnigramModel(std::shared_ptr<const Vocabulary> vocabulary, std::vector<double> scores,
                           const std::vector<bool>& plain, std::optional<TokenId> unknown,
                           bool byte_fallback)
    : vocabulary_(std::move(vocabulary)),
      scores_(std::move(scores)),
      unknown_(unknown),
      byte_fallback_(byte_fallback) {
  require(!scores_.empty() && scores_.size() == vocabulary_->size(), "{} scores for {} tokens",
          scores_.size(), vocabulary_->size());
  unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  for (size_t byte = 0; byte < fallback_ids_.size(); ++byte) {
    fallback_ids_[byte] = vocabulary_->find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  std::vector<std::pair<std::string_view, int32_t>> strings;
  for (TokenId id = 0; id < static_cast<TokenId>(scores_.size()); ++id) {
    if (plain[static_cast<size_t>(id)]) strings.emplace_back(vocabulary_->text(id), id);
  }
  trie_ = ByteTrie(std::move(strings));
}

void UnigramModel::encode(std::string_view piece, Scratch& scratch,
                          std::vector<TokenId>& out) const {
  if (piece.empty()) return;
  const bool cacheable = piece.size() <= PieceCache::kMaxPieceBytes;
  if (cacheable && scratch.cache.append(piece, out)) return;
  const size_t first = out.size();
  compute(piece, scratch, out);
  if (cacheable) scratch.cache.insert(piece, std::span(out).subspan(first));
}

void UnigramModel::compute(std::string_view piece, Scratch& scratch,
                           std::vector<TokenId>& out) const {
  // nodes[i]: the best segmentation of the first i bytes, and its last token.
  auto& nodes = scratch.nodes;
  nodes.assign(piece.size() + 1, {0, 0, -1});
  const auto offer = [&](size_t begin, size_t end, double score, TokenId id) {
    if (nodes[end].id < 0 || score > nodes[end].score) nodes[end] = {score, begin, id};
  };
  for (size_t begin = 0; begin < piece.size();) {
    const size_t character = decode_utf8(piece, begin).length;
    const double score = nodes[begin].score;
    bool known = false;
    trie_.for_each_prefix(piece.substr(begin), [&](size_t length, TokenId id) {
      offer(begin, begin + length, score + scores_[static_cast<size_t>(id)], id);
      known |= length == character;
    });
    if (!known) offer(begin, begin + character, score + unknown_score_, kUnknownNode);
    begin += character;
  }
  auto& path = scratch.path;
  path.clear();
  for (size_t end = piece.size(); end > 0; end = nodes[end].begin) path.push_back(end);
  // Adjacent unknown characters are written together.
  size_t unknown_begin = 0, begin = 0;
  bool in_unknown = false;
  for (auto end = path.rbegin(); end != path.rend(); ++end) {
    const TokenId id = nodes[*end].id;
    const bool unknown = id == kUnknownNode || id == unknown_;
    if (unknown && !in_unknown) unknown_begin = begin;
    if (!unknown && in_unknown)
      append_unknown(piece.substr(unknown_begin, begin - unknown_begin), out);
    if (!unknown) out.push_back(id);
    in_unknown = unknown;
    begin = *end;
  }
  if (in_unknown) append_unknown(piece.substr(unknown_begin), out);
}

void UnigramModel::append_unknown(std::string_view text, std::vector<TokenId>& out) const {
  if (byte_fallback_) {
    const auto token = [&](char byte) { return fallback_ids_[static_cast<uint8_t>(byte)]; };
    if (std::all_of(text.begin(), text.end(), [&](char byte) { return token(byte) >= 0; })) {
      for (const char byte : text) out.push_back(token(byte));
      return;
    }
  }
  require(unknown_.has_value(), "'{}' is not in the vocabulary, and it has no unknown token", text);
  out.push_back(*unknown_);
}

}  // namespace fewbit
