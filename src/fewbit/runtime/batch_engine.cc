#include "fewbit/runtime/batch_engine.h"

#include <algorithm>
#include <utility>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"

namespace fewbit {

std::vector<int32_t> end_tokens(const ModelSpec& spec, const Tokenizer* tokenizer) {
  std::vector<int32_t> tokens = spec.eos_tokens;
  if (tokenizer != nullptr) {
    const SpecialTokens& special = tokenizer->special();
    tokens.insert(tokens.end(), special.end_of_generation.begin(), special.end_of_generation.end());
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

BatchEngine::BatchEngine(std::shared_ptr<const PackedModel> model,
                         std::optional<Tokenizer> tokenizer, Options options)
    : model_(std::move(model)), tokenizer_(std::move(tokenizer)), options_(options) {
  require(options_.sequences > 0 && options_.step_tokens > 0,
          "an engine of {} sequences and {} tokens a step does nothing", options_.sequences,
          options_.step_tokens);
  if (options_.context == 0) options_.context = model_->spec().context;
  vocabulary_ = model_->spec().vocab_size;
  if (tokenizer_) vocabulary_ = std::min(vocabulary_, tokenizer_->vocabulary_size());
  for (size_t i = 0; i < options_.sequences; ++i) {
    slots_.push_back({model_->make_cache(options_.context), {}, nullptr});
  }
}

uint64_t BatchEngine::submit(GenerationRequest request) {
  require(!request.prompt.empty(), "the prompt is empty");
  require(request.prompt.size() < options_.context,
          "a prompt of {} tokens leaves no room in a context of {}", request.prompt.size(),
          options_.context);
  for (const int32_t token : request.prompt) {
    require(token >= 0 && static_cast<size_t>(token) < model_->spec().vocab_size,
            "token {} is outside the vocabulary of {}", token, model_->spec().vocab_size);
  }
  auto generation = std::make_unique<Generation>(Generation{next_id_,
                                                            {},
                                                            Sampler(request.sampling, vocabulary_),
                                                            StopFilter(request.stops),
                                                            std::nullopt,
                                                            {request.prompt.size(), 0, 0}});
  if (tokenizer_) generation->decoder.emplace(*tokenizer_, request.prompt, !request.show_special);
  for (const int32_t token : request.prompt) generation->sampler.accept(token);
  generation->request = std::move(request);
  waiting_.push_back(std::move(generation));
  return next_id_++;
}

void BatchEngine::cancel(uint64_t id) {
  std::erase_if(waiting_, [&](const auto& generation) { return generation->id == id; });
  for (Slot& slot : slots_) {
    if (slot.generation && slot.generation->id == id) slot.generation.reset();
  }
}

bool BatchEngine::idle() const { return waiting_.empty() && running() == 0; }

size_t BatchEngine::running() const {
  return static_cast<size_t>(std::count_if(
      slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.generation != nullptr; }));
}

// Tokens at the start of `prompt` that the slot's cache holds already. The last of a prompt is
// always run: its logits are wanted.
size_t BatchEngine::reusable(const Slot& slot, const std::vector<int32_t>& prompt) const {
  const size_t limit = std::min(slot.cache.length(), prompt.size() - 1);
  const auto differs =
      std::mismatch(prompt.begin(), prompt.begin() + static_cast<long>(limit), slot.tokens.begin());
  const auto common = static_cast<size_t>(differs.first - prompt.begin());
  return slot.cache.can_truncate(common) ? common : 0;
}

void BatchEngine::admit() {
  while (!waiting_.empty()) {
    const std::vector<int32_t>& prompt = waiting_.front()->request.prompt;
    // The free cache that helps most; among equals the one that would lose least.
    Slot* chosen = nullptr;
    size_t reused = 0;
    for (Slot& slot : slots_) {
      if (slot.generation) continue;
      const size_t common = reusable(slot, prompt);
      if (chosen == nullptr || common > reused ||
          (common == reused && slot.cache.length() < chosen->cache.length())) {
        chosen = &slot;
        reused = common;
      }
    }
    if (chosen == nullptr) return;
    chosen->cache.truncate(reused);
    chosen->tokens = prompt;
    chosen->generation = std::move(waiting_.front());
    chosen->generation->usage.cached_tokens = reused;
    waiting_.pop_front();
  }
}

GenerationEvent BatchEngine::take_token(Slot& slot, int32_t token) {
  Generation& generation = *slot.generation;
  GenerationEvent event;
  event.id = generation.id;
  event.tokens.push_back(token);
  ++generation.usage.completion_tokens;
  generation.sampler.accept(token);
  const std::vector<int32_t>& ends = generation.request.stop_tokens;
  const bool ended = std::find(ends.begin(), ends.end(), token) != ends.end();
  if (generation.decoder && !ended) {
    event.text = generation.filter.push(generation.decoder->push(token));
  }
  slot.tokens.push_back(token);
  const size_t limit = generation.request.max_tokens;
  if (ended || generation.filter.stopped()) {
    event.finished = FinishReason::stop;
  } else if ((limit > 0 && generation.usage.completion_tokens >= limit) ||
             slot.tokens.size() >= options_.context) {
    event.finished = FinishReason::length;
  }
  if (event.finished && generation.decoder) {
    event.text += generation.filter.push(generation.decoder->finish());
    event.text += generation.filter.finish();
    if (generation.filter.stopped()) event.finished = FinishReason::stop;
  }
  event.usage = generation.usage;
  if (event.finished) slot.generation.reset();
  return event;
}

std::vector<GenerationEvent> BatchEngine::step() {
  admit();
  // Sequences that are being continued go first: one token each. Prompts share what is left.
  std::vector<std::pair<Slot*, size_t>> work;
  size_t budget = options_.step_tokens;
  for (const bool prompts : {false, true}) {
    for (Slot& slot : slots_) {
      if (!slot.generation) continue;
      const size_t pending = slot.tokens.size() - slot.cache.length();
      const bool is_prompt = slot.generation->usage.completion_tokens == 0;
      if (is_prompt != prompts) continue;
      const size_t count = std::min({pending, slot.cache.max_chunk(), std::max<size_t>(budget, 1)});
      if (prompts && budget == 0 && !work.empty()) continue;
      work.emplace_back(&slot, count);
      budget -= std::min(budget, count);
    }
  }
  if (work.empty()) return {};
  std::vector<SequenceRun> runs;
  for (const auto& [slot, count] : work) {
    runs.push_back({&slot->cache, std::span(slot->tokens).subspan(slot->cache.length(), count)});
  }
  const Panel hidden = model_->run(runs);

  // Only the rows whose next token is wanted need logits.
  std::vector<size_t> ready;
  for (size_t i = 0; i < work.size(); ++i) {
    const Slot& slot = *work[i].first;
    if (slot.cache.length() == slot.tokens.size()) ready.push_back(i);
  }
  Panel rows(ready.size(), hidden.cols()), logits(ready.size(), model_->spec().vocab_size);
  for (size_t i = 0; i < ready.size(); ++i) {
    std::ranges::copy(hidden.row(ready[i]), rows.row(i).begin());
  }
  if (!ready.empty()) model_->logits(rows.view(), logits.view());
  std::vector<int32_t> tokens(ready.size());
  parallel_for(ready.size(), [&](size_t i) {
    tokens[i] = work[ready[i]].first->generation->sampler.sample(logits.row(i));
  });
  std::vector<GenerationEvent> events;
  for (size_t i = 0; i < ready.size(); ++i) {
    events.push_back(take_token(*work[ready[i]].first, tokens[i]));
  }
  return events;
}

}  // namespace fewbit
