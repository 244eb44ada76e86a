// BatchEngine: generates text for several requests at a time on one model (continuous batching).
//
// Every step() runs one token of each sequence that is being continued, and fills the rest of the
// step with prompts that wait to be read; requests join and leave between steps. The bits of a
// sequence do not depend on what runs beside it. A finished sequence's cache is kept, and a later
// prompt that begins alike (the next turn of a chat) reads only what is new.
//
// Not thread-safe: one thread submits and steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fewbit/runtime/packed_model.h"
#include "fewbit/runtime/sampler.h"
#include "fewbit/runtime/stop_filter.h"
#include "fewbit/text/stream_decoder.h"
#include "fewbit/text/tokenizer.h"

namespace fewbit {

struct GenerationRequest {
  std::vector<int32_t> prompt;
  size_t max_tokens = 0;  // 0: until the context is full.
  SamplerOptions sampling;
  std::vector<std::string> stops;    // Strings that end the text; never part of it.
  std::vector<int32_t> stop_tokens;  // Tokens that end it (end_tokens()).
  bool show_special = false;         // Whether control tokens are part of the text.
};

enum class FinishReason { stop, length };

struct GenerationUsage {
  size_t prompt_tokens = 0;
  size_t cached_tokens = 0;  // Of the prompt, those that an earlier sequence had left in a cache.
  size_t completion_tokens = 0;
};

// What a step has added to one generation.
struct GenerationEvent {
  uint64_t id = 0;
  std::vector<int32_t> tokens;  // Including a stop token.
  std::string text;             // Final and valid UTF-8; often empty.
  std::optional<FinishReason> finished;
  GenerationUsage usage;
};

// The tokens that end a generated text: those of the model and of its tokenizer. Sorted.
std::vector<int32_t> end_tokens(const ModelSpec& spec, const Tokenizer* tokenizer);

class BatchEngine {
 public:
  struct Options {
    size_t sequences = 1;  // That run at a time; others wait.
    size_t context = 0;    // Tokens of a sequence, prompt and completion; 0: the model's.
    size_t step_tokens = 512;
  };
  // Without a tokenizer events have no text.
  BatchEngine(std::shared_ptr<const PackedModel> model, std::optional<Tokenizer> tokenizer,
              Options options);

  size_t context() const { return options_.context; }
  // Error: an empty prompt, one that leaves no room for a token, a token outside the vocabulary,
  // bad options.
  uint64_t submit(GenerationRequest request);
  // Ends a request without an event; unknown ids are none.
  void cancel(uint64_t id);
  bool idle() const;
  size_t running() const;
  size_t waiting() const { return waiting_.size(); }

  // One forward pass. Events of one id come in order, one a step.
  std::vector<GenerationEvent> step();

 private:
  struct Generation {
    uint64_t id;
    GenerationRequest request;
    Sampler sampler;
    StopFilter filter;
    std::optional<StreamDecoder> decoder;
    GenerationUsage usage;
  };
  // A cache, the tokens it has room for or holds, and who uses it.
  struct Slot {
    KvCache cache;
    std::vector<int32_t> tokens;  // The first cache.length() of them are in the cache.
    std::unique_ptr<Generation> generation;
  };

  void admit();
  size_t reusable(const Slot& slot, const std::vector<int32_t>& prompt) const;
  GenerationEvent take_token(Slot& slot, int32_t token);

  std::shared_ptr<const PackedModel> model_;
  std::optional<Tokenizer> tokenizer_;
  Options options_;
  size_t vocabulary_;
  uint64_t next_id_ = 1;
  std::deque<std::unique_ptr<Generation>> waiting_;
  std::vector<Slot> slots_;
};

}  // namespace fewbit
