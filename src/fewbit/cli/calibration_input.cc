#include "fewbit/cli/calibration_input.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/calibrate/quantize_model.h"
#include "fewbit/eval/sampled_tokens.h"
#include "fewbit/eval/text_tokens.h"
#include "fewbit/eval/token_file.h"
#include "fewbit/model/model_text.h"
#include "fewbit/network/torch_language_model.h"

namespace fewbit::cli {
namespace {

// Calibration windows are no longer than this unless asked for.
constexpr size_t kDefaultLength = 2048;

// Ids of a file, its documents one behind the other.
std::vector<int32_t> tokens_of_file(const Checkpoint& checkpoint, const std::string& path) {
  std::vector<int32_t> tokens;
  for (const std::vector<int32_t>& document : read_token_file(path)) {
    for (const int32_t id : document) {
      require(static_cast<size_t>(id) < checkpoint.spec.vocab_size,
              "{}: token {} is outside the model's vocabulary of {}", path, id,
              checkpoint.spec.vocab_size);
      tokens.push_back(id);
    }
  }
  return tokens;
}

// Sequences of BOS and `length` - 1 tokens that the model draws behind it.
at::Tensor own_text(const Checkpoint& checkpoint, const CalibrationArguments& arguments,
                    size_t length) {
  std::optional<Tokenizer> tokenizer;
  if (!checkpoint.tokenizer.empty()) tokenizer = load_tokenizer(checkpoint);
  const auto bos = prefix_token(checkpoint, tokenizer ? &*tokenizer : nullptr);
  require(bos.has_value(), "{}: --calib-sample needs a model that names its BOS or EOS token",
          checkpoint.path.string());
  require(length >= 2, "--calib-length {} leaves nothing to sample behind BOS", length);
  TorchLanguageModel model(std::make_shared<Decoder>(checkpoint.spec, checkpoint.tensors),
                           TorchLanguageModel::Residency::resident);
  SampleOptions options;
  options.sequences = arguments.sequences;
  options.length = length - 1;
  options.bos = *bos;
  options.seed = arguments.seed;
  options.vocabulary = tokenizer ? tokenizer->vocabulary_size() : 0;
  options.progress = Progress::Mode::automatic;
  const auto sequences = sample_sequences(model, options);
  at::Tensor tokens =
      at::empty({static_cast<int64_t>(sequences.size()), static_cast<int64_t>(length)}, at::kLong);
  int64_t* out = tokens.data_ptr<int64_t>();
  for (const std::vector<int32_t>& sequence : sequences) {
    *out++ = *bos;
    out = std::copy(sequence.begin(), sequence.end(), out);
  }
  return tokens;
}

}  // namespace

void add_calibration_options(CLI::App& verb, CalibrationArguments& arguments) {
  verb.add_option("--calib", arguments.text, "calibration text, plain or .zst");
  verb.add_option("--calib-tokens", arguments.tokens,
                  "calibration token ids: .safetensors, .jsonl, .u16, .u32");
  verb.add_flag("--calib-sample", arguments.sample,
                "calibrate on text that the model writes itself");
  verb.add_option("--calib-sequences", arguments.sequences, "calibration windows (default 64)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 20));
  verb.add_option("--calib-length", arguments.length,
                  "tokens of a window (default: the model's context, at most 2048)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 20));
  verb.add_option("--batch", arguments.batch, "windows that run together (default 4)")
      ->check(CLI::Range(size_t{1}, size_t{4096}));
  verb.add_option("--seed", arguments.seed, "of the calibration windows (default 0)");
}

CalibrationSet calibration_set(const Checkpoint& checkpoint,
                               const CalibrationArguments& arguments) {
  const int sources = !arguments.text.empty() + !arguments.tokens.empty() + arguments.sample;
  require(sources <= 1, "give one of --calib FILE, --calib-tokens FILE and --calib-sample");
  CalibrationSet set;
  if (sources == 0) return set;
  const size_t length =
      arguments.length != 0 ? arguments.length : std::min(checkpoint.spec.context, kDefaultLength);
  set.batch = arguments.batch;
  std::string source = "the model's own text";
  if (arguments.sample) {
    set.tokens = own_text(checkpoint, arguments, length);
  } else {
    const bool is_text = !arguments.text.empty();
    source = is_text ? arguments.text : arguments.tokens;
    const std::vector<int32_t> tokens =
        is_text ? tokenize_text(load_tokenizer(checkpoint), source, "file")
                : tokens_of_file(checkpoint, source);
    set.tokens = sample_windows(tokens, arguments.sequences, length, arguments.seed);
  }
  set.description = fmt::format("{} windows of {} tokens of {}, seed {}", set.tokens.size(0),
                                set.tokens.size(1), source, arguments.seed);
  return set;
}

}  // namespace fewbit::cli
