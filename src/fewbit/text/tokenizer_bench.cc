// Encoding and decoding speed. FEWBIT_BENCH_TOKENIZER: a tokenizer.json or .gguf of your own;
// FEWBIT_BENCH_TEXT: a text file. Else vocabularies trained here on made-up text.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>

#include "fewbit/base/file.h"
#include "fewbit/base/random.h"
#include "fewbit/text/bpe_trainer.h"
#include "fewbit/text/byte_tokenizer.h"
#include "fewbit/text/corpus.h"
#include "fewbit/text/gguf_vocabulary.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {
namespace {

constexpr size_t kTextBytes = size_t{4} << 20;

// Words of made-up letters whose frequencies follow Zipf's law.
std::string made_up_text() {
  RandomStream random(1, "bench");
  std::vector<std::string> words;
  for (size_t i = 0; i < 30'000; ++i) {
    std::string word;
    for (uint64_t n = 2 + random.below(8); n > 0; --n) {
      word += "etaoinshrdlucmfwypvbgkqjxz"[random.below(1 + random.below(26))];
    }
    words.push_back(word);
  }
  std::string text;
  while (text.size() < kTextBytes) {
    const double rank = std::pow(static_cast<double>(words.size()), random.uniform());
    text += words[static_cast<size_t>(rank) - 1];
    text += random.below(12) == 0 ? ".\n" : " ";
  }
  return text;
}

const std::string& text() {
  static const std::string text = [] {
    const char* path = std::getenv("FEWBIT_BENCH_TEXT");
    return path ? read_text(path) : made_up_text();
  }();
  return text;
}

const Tokenizer& trained() {
  static const Tokenizer tokenizer = [] {
    const std::vector<std::string_view> texts = {text()};
    return Tokenizer::from_json(train_bpe(texts, {.vocabulary_size = 8192}));
  }();
  return tokenizer;
}

Tokenizer load(const std::filesystem::path& path) {
  if (path.extension() == ".gguf") {
    return make_tokenizer(read_gguf_vocabulary(GgufFile::open(path)));
  }
  return Tokenizer::from_json(read_text_file(path), path.string());
}

const Tokenizer& given() {
  static const Tokenizer tokenizer = load(std::getenv("FEWBIT_BENCH_TOKENIZER"));
  return tokenizer;
}

void encode(benchmark::State& state, const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (auto _ : state) {
    ids.clear();
    tokenizer.encode(text(), {}, ids);
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text().size()));
  state.counters["bytes_per_token"] =
      static_cast<double>(text().size()) / static_cast<double>(std::max<size_t>(1, ids.size()));
}

void decode(benchmark::State& state, const Tokenizer& tokenizer) {
  const std::vector<TokenId> ids = tokenizer.encode(text());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids).data());
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text().size()));
}

void train(benchmark::State& state) {
  const std::vector<std::string_view> texts = {text()};
  for (auto _ : state) {
    benchmark::DoNotOptimize(train_bpe(texts, {.vocabulary_size = 8192}).data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text().size()));
}

const bool registered = [] {
  const auto add = [](const char* name, auto run) {
    benchmark::RegisterBenchmark(name, run)->Unit(benchmark::kMillisecond);
  };
  add("tokenizer/encode/bpe-8192", [](benchmark::State& s) { encode(s, trained()); });
  add("tokenizer/decode/bpe-8192", [](benchmark::State& s) { decode(s, trained()); });
  add("tokenizer/encode/byte",
      [](benchmark::State& s) { encode(s, Tokenizer::from_json(byte_tokenizer_json())); });
  add("tokenizer/train/bpe-8192", train);
  if (std::getenv("FEWBIT_BENCH_TOKENIZER")) {
    add("tokenizer/encode/given", [](benchmark::State& s) { encode(s, given()); });
    add("tokenizer/decode/given", [](benchmark::State& s) { decode(s, given()); });
  }
  return true;
}();

}  // namespace
}  // namespace fewbit
