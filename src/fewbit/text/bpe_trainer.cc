#include "fewbit/text/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/interrupt.h"
#include "fewbit/base/json.h"
#include "fewbit/text/added_tokens.h"
#include "fewbit/text/byte_tokenizer.h"
#include "fewbit/text/pre_tokenizer.h"
#include "fewbit/text/unicode.h"

namespace fewbit {
namespace {

constexpr size_t kBytes = 256;

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

struct Word {
  std::vector<TokenId> tokens;
  uint64_t count = 0;
};

uint64_t pair_key(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

struct Pair {
  uint64_t count = 0;
  // Words that held the pair when this was written; some may hold it no longer.
  std::vector<uint32_t> words;
};

struct Candidate {
  uint64_t count, key;
  // The best is at the top of a priority queue: the highest count, then the lowest ids.
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : key > other.key;
  }
};

class Merger {
 public:
  Merger(std::vector<Word> words, const BpeTrainerOptions& options)
      : words_(std::move(words)), options_(options) {
    for (size_t byte = 0; byte < kBytes; ++byte) {
      texts_.emplace_back(1, static_cast<char>(byte));
      ids_.emplace(texts_.back(), static_cast<TokenId>(byte));
    }
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const Word& word = words_[w];
      for (size_t i = 0; i + 1 < word.tokens.size(); ++i) {
        add(pair_key(word.tokens[i], word.tokens[i + 1]), word.count, w);
      }
    }
    for (const auto& [key, pair] : pairs_) offer(key, pair.count);
  }

  // Merges until there are `tokens` tokens.
  std::vector<std::pair<TokenId, TokenId>> run(size_t tokens) {
    std::vector<std::pair<TokenId, TokenId>> merges;
    while (texts_.size() < tokens && !queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(best.key);
      // A merge may bring a pair back that was merged before, by another way to one of its tokens.
      if (found == pairs_.end() || merged_.contains(best.key)) continue;
      // Counts only rise through an offer of their own, so an old offer is never too low.
      if (found->second.count != best.count) {
        offer(best.key, found->second.count);
        continue;
      }
      throw_if_interrupted();
      const auto left = static_cast<TokenId>(best.key >> 32);
      const auto right = static_cast<TokenId>(best.key & UINT32_MAX);
      const TokenId merged = id_of(text(left) + text(right));
      merges.emplace_back(left, right);
      merged_.insert(best.key);
      const std::vector<uint32_t> holders = std::move(found->second.words);
      pairs_.erase(found);
      merge(left, right, merged, holders);
    }
    return merges;
  }

 private:
  const std::string& text(TokenId token) const { return texts_[static_cast<size_t>(token)]; }

  // Two merges can have the same result ("a" + "bc", "ab" + "c"), which is one token.
  TokenId id_of(std::string text) {
    const auto [entry, added] = ids_.emplace(std::move(text), static_cast<TokenId>(texts_.size()));
    if (added) texts_.push_back(entry->first);
    return entry->second;
  }

  void offer(uint64_t key, uint64_t count) {
    const size_t bytes = text(static_cast<TokenId>(key >> 32)).size() +
                         text(static_cast<TokenId>(key & UINT32_MAX)).size();
    if (count < std::max<uint64_t>(1, options_.min_pair_count)) return;
    if (bytes > options_.max_token_bytes) return;
    queue_.push({count, key});
  }

  void add(uint64_t key, uint64_t count, uint32_t word) {
    Pair& pair = pairs_[key];
    pair.count += count;
    // The words of one pair come in runs, mostly of one.
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
  }

  void remove(uint64_t key, uint64_t count) {
    const auto found = pairs_.find(key);
    if (found == pairs_.end()) return;
    found->second.count -= std::min(count, found->second.count);
  }

  void merge(TokenId left, TokenId right, TokenId merged, const std::vector<uint32_t>& holders) {
    std::set<uint64_t> risen;
    for (const uint32_t w : holders) {
      Word& word = words_[w];
      std::vector<TokenId>& tokens = word.tokens;
      size_t out = 0;
      for (size_t i = 0; i < tokens.size(); ++out) {
        if (i + 1 == tokens.size() || tokens[i] != left || tokens[i + 1] != right) {
          tokens[out] = tokens[i++];
          continue;
        }
        // Neighbours as they stand now: on the left what has been written, on the right what has
        // not been read.
        if (out > 0) {
          remove(pair_key(tokens[out - 1], left), word.count);
          add(pair_key(tokens[out - 1], merged), word.count, w);
          risen.insert(pair_key(tokens[out - 1], merged));
        }
        if (i + 2 < tokens.size()) {
          remove(pair_key(right, tokens[i + 2]), word.count);
          add(pair_key(merged, tokens[i + 2]), word.count, w);
          risen.insert(pair_key(merged, tokens[i + 2]));
        }
        tokens[out] = merged;
        i += 2;
      }
      tokens.resize(out);
    }
    for (const uint64_t key : risen) offer(key, pairs_[key].count);
  }

  std::vector<Word> words_;
  const BpeTrainerOptions& options_;
  std::vector<std::string> texts_;
  std::unordered_map<std::string, TokenId> ids_;
  std::unordered_set<uint64_t> merged_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> queue_;
};

PreTokenizer gpt2_words() {
  return PreTokenizer::from_json(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}});
}

AddedTokens as_added(const std::vector<std::string>& special_tokens) {
  std::vector<AddedToken> added;
  for (const std::string& token : special_tokens) {
    AddedToken entry;
    entry.content = token;
    entry.special = true;
    added.push_back(std::move(entry));
  }
  return AddedTokens(std::move(added));
}

}  // namespace

struct BpeTrainer::State {
  explicit State(BpeTrainerOptions given)
      : options(std::move(given)), special(as_added(options.special_tokens)) {}

  BpeTrainerOptions options;
  AddedTokens special;
  PreTokenizer pre_tokenizer = gpt2_words();
  PreTokenizer::Scratch scratch = pre_tokenizer.make_scratch();
  std::unordered_map<std::string, uint64_t, TextHash, std::equal_to<>> counts;
};

BpeTrainer::BpeTrainer(BpeTrainerOptions options) {
  const std::set<std::string> distinct(options.special_tokens.begin(),
                                       options.special_tokens.end());
  require(distinct.size() == options.special_tokens.size() && !distinct.contains(""),
          "special tokens must differ from each other and not be empty");
  for (const std::string& token : distinct) {
    require(valid_utf8_prefix(token) == token.size(), "a special token is not UTF-8");
  }
  const size_t least = kBytes + distinct.size();
  require(options.vocabulary_size >= least && options.vocabulary_size <= kMaxVocabulary,
          "a byte-level vocabulary of {} tokens; allowed: {} to {}", options.vocabulary_size, least,
          kMaxVocabulary);
  state_ = std::make_unique<State>(std::move(options));
}

BpeTrainer::~BpeTrainer() = default;
BpeTrainer::BpeTrainer(BpeTrainer&&) noexcept = default;
BpeTrainer& BpeTrainer::operator=(BpeTrainer&&) noexcept = default;

void BpeTrainer::add(std::string_view text) {
  std::string mended;
  if (valid_utf8_prefix(text) != text.size()) text = mended = replace_invalid_utf8(text);
  const PreTokenizer::Sink count = [&](Piece piece) {
    const auto found = state_->counts.find(piece.text);
    if (found != state_->counts.end()) {
      ++found->second;
    } else {
      state_->counts.emplace(piece.text, 1);
    }
  };
  state_->special.cut(
      text, true,
      [&](TextRange range) {
        state_->pre_tokenizer.split({text.substr(range.begin, range.end - range.begin), false},
                                    state_->scratch, count);
      },
      [](TokenId) {});
}

size_t BpeTrainer::distinct_words() const { return state_->counts.size(); }

std::string BpeTrainer::train() const {
  const BpeTrainerOptions& options = state_->options;
  std::vector<std::pair<std::string_view, uint64_t>> sorted(state_->counts.begin(),
                                                            state_->counts.end());
  std::sort(sorted.begin(), sorted.end());
  require(sorted.size() <= UINT32_MAX, "{} distinct words are too many", sorted.size());
  std::vector<Word> words;
  words.reserve(sorted.size());
  for (const auto& [text, count] : sorted) {
    Word word;
    word.count = count;
    for (const char byte : text) word.tokens.push_back(static_cast<uint8_t>(byte));
    words.push_back(std::move(word));
  }
  Merger merger(std::move(words), options);
  const auto merges = merger.run(options.vocabulary_size - options.special_tokens.size());
  return byte_level_tokenizer_json(merges, options.special_tokens, true);
}

std::string train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options) {
  BpeTrainer trainer(options);
  for (const std::string_view text : texts) trainer.add(text);
  return trainer.train();
}

}  // namespace fewbit
