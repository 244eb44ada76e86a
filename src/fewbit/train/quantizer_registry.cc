#include "fewbit/train/quantizer_registry.h"

#include "fewbit/base/error.h"
#include "fewbit/train/quantizer_affine.h"
#include "fewbit/train/quantizer_partially_binarized.h"
#include "fewbit/train/quantizer_rules.h"

namespace fewbit {
namespace {

using Make = std::function<std::unique_ptr<FakeQuant>(const OptionValues&, const at::Tensor&)>;
using Words = std::vector<std::string>;

constexpr int64_t kLargestGroup = 1 << 20;
constexpr int64_t kMostShards = 1024;

Words bits_from(int first, int last) {
  Words words;
  for (int bits = first; bits <= last; ++bits) words.push_back(std::to_string(bits));
  return words;
}

// --- shared options ------------------------------------------------------------------------------

OptionSpec bits_option(const Words& bits, const std::string& value) {
  return OptionSpec::make_choice("bits", value, bits, "Bits per weight; 1.58 is ternary.");
}

OptionSpec scale_dtype_option() {
  return OptionSpec::make_choice("scale_dtype", "f16", {"f16", "bf16", "f32"},
                                 "Type of the stored scales; codes are chosen under scales "
                                 "rounded to it.");
}

std::vector<OptionSpec> sharing_options(const std::string& granularity) {
  return {
      OptionSpec::make_choice("granularity", granularity, {"row", "matrix"},
                              "What shares one scale, unless group_size is given."),
      OptionSpec::make_integer("group_size", 0, 0, kLargestGroup,
                               "Columns of a row that share one scale; 0: as granularity says."),
      OptionSpec::make_integer("shards", 1, 1, kMostShards,
                               "With granularity=matrix: one scale for each of so many equal runs "
                               "of rows."),
  };
}

OptionSpec frozen_option() {
  return OptionSpec::make_boolean("frozen_codes", false,
                                  "Keep codes and zero points as they start and train the scales "
                                  "alone.");
}

ScaleGroups groups_from(const OptionValues& options, const at::Tensor& weight) {
  const int64_t rows = weight.size(0), cols = weight.size(1);
  const int64_t group_size = options.integer("group_size"), shards = options.integer("shards");
  const bool matrix = options.text("granularity") == "matrix";
  require(shards == 1 || (matrix && group_size == 0),
          "shards={} needs granularity=matrix and no group_size", shards);
  if (group_size > 0) return ScaleGroups::per_group(rows, cols, group_size);
  return matrix ? ScaleGroups::per_matrix(rows, cols, shards) : ScaleGroups::per_row(rows, cols);
}

Dtype scale_dtype_from(const OptionValues& options) {
  return float_dtype_from_word(options.text("scale_dtype"));
}

int whole_bits(const OptionValues& options) { return std::stoi(options.text("bits")); }

std::vector<OptionSpec> joined(std::initializer_list<std::vector<OptionSpec>> parts) {
  std::vector<OptionSpec> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::unique_ptr<FakeQuant> frozen_if_asked(std::unique_ptr<FakeQuant> quantizer,
                                           const OptionValues& options, const at::Tensor& weight) {
  return options.boolean("frozen_codes") ? freeze_codes(*quantizer, weight) : std::move(quantizer);
}

// --- level grids ---------------------------------------------------------------------------------

using MakeLevels = std::function<LevelQuantizer(const OptionValues&, const ScaleGroups&)>;

std::vector<OptionSpec> learned_options() {
  return {
      OptionSpec::make_choice("scale", "learned", {"learned", "log", "fixed"},
                              "Train the scale, train its logarithm (relative steps), or keep it "
                              "as it starts."),
      OptionSpec::make_choice("init", "statistic", {"statistic", "mse"},
                              "Start of the scale: the method's own statistic, or the least "
                              "squared error among 1.00, 0.99 .. 0.21 of it (better for runs below "
                              "1000 steps)."),
  };
}

// Scale options apply where the method learns its scale.
void apply_scale_options(const OptionValues& options, LevelQuantizer& quantizer) {
  const std::string& scale = options.text("scale");
  if (scale == "log") quantizer.scale = LevelQuantizer::Scale::learned_log;
  if (scale == "fixed") quantizer.scale = LevelQuantizer::Scale::fixed;
  quantizer.least_squares = options.text("init") == "mse";
}

Quantizer level_entry(std::string name, std::string help, std::string source, Words bits,
                      const std::string& default_bits, const std::string& granularity, bool learned,
                      std::vector<OptionSpec> own, const MakeLevels& levels) {
  Quantizer entry{name, std::move(help), std::move(source), bits, {}, {}};
  entry.options = joined({{bits_option(bits, default_bits)},
                          std::move(own),
                          learned ? learned_options() : std::vector<OptionSpec>{},
                          sharing_options(granularity),
                          {scale_dtype_option(), frozen_option()}});
  entry.make = [name, learned, levels](const OptionValues& options, const at::Tensor& weight) {
    LevelQuantizer quantizer = levels(options, groups_from(options, weight));
    quantizer.name = name;
    quantizer.rule.scale_dtype = scale_dtype_from(options);
    if (learned) apply_scale_options(options, quantizer);
    return frozen_if_asked(make_level_fake_quant(quantizer, weight), options, weight);
  };
  return entry;
}

OptionSpec compatible_option() {
  return OptionSpec::make_boolean("compatible", false,
                                  "As in the published code: clipped ternary weights pass 1 "
                                  "instead of 2/3 to the scale, binary weights of 0 stay 0.");
}

ParetoQOptions paretoq_options(const OptionValues& options) {
  return {.compatible = options.boolean("compatible")};
}

LevelQuantizer stretched(const OptionValues& options, const ScaleGroups& groups) {
  LevelQuantizer quantizer;
  quantizer.groups = groups;
  quantizer.rule = stretched_rule(levels_of_bits(options.text("bits")),
                                  groups.rows() * groups.cols(), paretoq_options(options));
  return quantizer;
}

void add_learned(std::vector<Quantizer>& table) {
  const std::string paretoq_source = "arXiv 2502.02631";
  table.push_back(level_entry(
      "paretoq", "the grid that suits each width: elastic, stretched or LSQ, one scale per row",
      paretoq_source, {"1", "1.58", "2", "3", "4"}, "2", "row", true, {compatible_option()},
      [](const OptionValues& options, const ScaleGroups& groups) {
        return paretoq_quantizer(options.text("bits"), groups, paretoq_options(options));
      }));
  table.push_back(level_entry("elastic", "signs times a learned scale", paretoq_source, {"1"}, "1",
                              "row", true, {compatible_option()},
                              [](const OptionValues& options, const ScaleGroups& groups) {
                                return paretoq_quantizer("1", groups, paretoq_options(options));
                              }));
  table.push_back(level_entry(
      "seq", "stretched elastic quantization: levels evenly within the learned range",
      paretoq_source, {"1.58", "2", "3", "4"}, "2", "row", true, {compatible_option()}, stretched));
  table.push_back(level_entry("lsq", "learned step size on signed integers", "arXiv 1902.08153",
                              bits_from(2, 8), "4", "row", true, {},
                              [](const OptionValues& options, const ScaleGroups& groups) {
                                return lsq_quantizer(whole_bits(options), groups);
                              }));
}

void add_statistics(std::vector<Quantizer>& table) {
  const auto entry = [&](const char* name, const char* help, const char* source, Words bits,
                         const char* default_bits, const char* granularity, MakeLevels make) {
    table.push_back(level_entry(name, help, source, std::move(bits), default_bits, granularity,
                                false, {}, make));
  };
  using Values = OptionValues;
  using Groups = ScaleGroups;
  entry("minmax", "signed integers up to the largest weight, taken at every step",
        "common baseline", bits_from(2, 8), "4", "row",
        [](const Values& o, const Groups& g) { return min_max_quantizer(whole_bits(o), g); });
  entry("absmean", "ternary with the mean magnitude as scale", "arXiv 2402.17764", {"1.58"}, "1.58",
        "row", [](const Values&, const Groups& g) { return absmean_quantizer(g); });
  entry("bitnet", "BitNet b1.58: ternary, one mean magnitude per matrix; wants absmax activations",
        "arXiv 2402.17764", {"1.58"}, "1.58", "matrix",
        [](const Values&, const Groups& g) { return absmean_quantizer(g); });
  entry("bitnet-b1", "BitNet: signs of the centred weights, one mean magnitude per matrix",
        "arXiv 2310.11453", {"1"}, "1", "matrix",
        [](const Values&, const Groups& g) { return bitnet_b1_quantizer(g); });
  entry("trilm", "Spectra's ternary weights: mean magnitude plus 1e-5, activations left alone",
        "arXiv 2407.12327", {"1.58"}, "1.58", "matrix",
        [](const Values&, const Groups& g) { return trilm_quantizer(g); });
  entry("bilm", "Spectra's binary weights: signs of the centred weights", "arXiv 2407.12327", {"1"},
        "1", "matrix", [](const Values&, const Groups& g) { return bilm_quantizer(g); });
  entry("llm-qat", "scales from mean magnitudes at 1 and 2 bits, from the largest weight above",
        "arXiv 2305.17888", bits_from(1, 8), "4", "row",
        [](const Values& o, const Groups& g) { return llm_qat_quantizer(whole_bits(o), g); });
}

// --- the others ----------------------------------------------------------------------------------

Quantizer affine_entry(std::string name, std::string help, std::string source, int64_t group_size,
                       std::vector<OptionSpec> own,
                       const std::function<std::unique_ptr<FakeQuant>(
                           const OptionValues&, const AffineQuantizer&, const at::Tensor&)>& make) {
  const Words bits = bits_from(1, 8);
  Quantizer entry{std::move(name), std::move(help), std::move(source), bits, {}, {}};
  entry.options =
      joined({{bits_option(bits, "2"),
               OptionSpec::make_integer("group_size", group_size, 0, kLargestGroup,
                                        "Columns of a row that share scale and zero point; 0: "
                                        "the whole row.")},
              std::move(own),
              {scale_dtype_option(), frozen_option()}});
  entry.make = [make](const OptionValues& options, const at::Tensor& weight) {
    AffineQuantizer quantizer;
    quantizer.bits = whole_bits(options);
    quantizer.scale_dtype = scale_dtype_from(options);
    const int64_t size = options.integer("group_size");
    quantizer.groups = size == 0 ? ScaleGroups::per_row(weight.size(0), weight.size(1))
                                 : ScaleGroups::per_group(weight.size(0), weight.size(1), size);
    return frozen_if_asked(make(options, quantizer, weight), options, weight);
  };
  return entry;
}

void add_others(std::vector<Quantizer>& table) {
  constexpr int64_t kEfficientQatGroup = 64;
  table.push_back(affine_entry(
      "efficientqat",
      "uniform with trained scales and zero points; frozen_codes=true is its end-to-end phase",
      "arXiv 2407.11062", kEfficientQatGroup, {},
      [](const OptionValues&, const AffineQuantizer& quantizer, const at::Tensor& weight) {
        return make_efficient_qat(quantizer, weight);
      }));
  table.push_back(affine_entry(
      "lwc", "uniform between learned fractions of the smallest and largest weight",
      "arXiv 2308.13137", 0,
      {OptionSpec::make_real("init_logit", kClippingLogit, -10, 10,
                             "Where both clipping logits start; the fraction is their sigmoid.")},
      [](const OptionValues& options, const AffineQuantizer& quantizer, const at::Tensor& weight) {
        return make_learnable_clipping(quantizer, weight, options.real("init_logit"));
      }));
  Quantizer pb{"pb-llm",
               "binary with the largest weights frozen at 8 bits; evaluated, not packed",
               "arXiv 2310.00034",
               {"1"},
               {},
               {}};
  pb.options = {bits_option({"1"}, "1"),
                OptionSpec::make_real("fraction", 0.1, 0, 1, "Weights kept at 8 bits."),
                scale_dtype_option()};
  pb.make = [](const OptionValues& options, const at::Tensor& weight) {
    return make_partially_binarized(options.real("fraction"), scale_dtype_from(options), weight);
  };
  table.push_back(std::move(pb));
}

std::vector<Quantizer> make_table() {
  std::vector<Quantizer> table;
  add_learned(table);
  add_statistics(table);
  add_others(table);
  return table;
}

// --- activations ---------------------------------------------------------------------------------

OptionSpec activation_bits(int64_t value) {
  return OptionSpec::make_integer("bits", value, 2, 8, "Bits per activation.");
}

std::vector<ActivationQuantizer> make_activation_table() {
  std::vector<ActivationQuantizer> table;
  table.push_back({"absmax",
                   "symmetric, from the largest magnitude of each token",
                   "arXiv 2402.17764",
                   {activation_bits(8)},
                   [](const OptionValues& options) {
                     return make_absmax_activation(static_cast<int>(options.integer("bits")));
                   }});
  table.push_back(
      {"minmax",
       "from the range of each token",
       "arXiv 2305.17888",
       {activation_bits(8), OptionSpec::make_boolean("symmetric", true, "Around zero."),
        OptionSpec::make_choice("granularity", "token", {"token", "tensor"},
                                "What shares one range."),
        OptionSpec::make_boolean("compatible", false,
                                 "No gradient where |x| >= 2, as in the published code.")},
       [](const OptionValues& options) {
         return make_min_max_activation({.bits = static_cast<int>(options.integer("bits")),
                                         .symmetric = options.boolean("symmetric"),
                                         .per_tensor = options.text("granularity") == "tensor",
                                         .compatible = options.boolean("compatible")});
       }});
  constexpr double kPactClip = 10;
  table.push_back({"pact",
                   "a learned upper clip, for activations after a ReLU",
                   "arXiv 1805.06085",
                   {activation_bits(4),
                    OptionSpec::make_real("clip", kPactClip, 1e-3, 1e4, "Where the clip starts.")},
                   [](const OptionValues& options) {
                     return make_pact_activation(static_cast<int>(options.integer("bits")),
                                                 options.real("clip"));
                   }});
  table.push_back(
      {"lsq",
       "a learned step, started from the first batch",
       "arXiv 1902.08153",
       {activation_bits(4), OptionSpec::make_boolean("signed", true, "False after a ReLU.")},
       [](const OptionValues& options) {
         return make_lsq_activation(static_cast<int>(options.integer("bits")),
                                    options.boolean("signed"));
       }});
  return table;
}

template <class Entry>
const Entry& find_entry(std::span<const Entry> table, std::string_view name, const char* what) {
  std::vector<std::string> known;
  for (const Entry& entry : table) {
    if (entry.name == name) return entry;
    known.push_back(entry.name);
  }
  fail("{} '{}' is not known; known: {}", what, name, join_choices(known));
}

}  // namespace

std::span<const Quantizer> quantizers() {
  static const std::vector<Quantizer> table = make_table();
  return table;
}

const Quantizer& find_quantizer(std::string_view name) {
  return find_entry(quantizers(), name, "quantizer");
}

std::unique_ptr<FakeQuant> make_fake_quant(std::string_view name,
                                           const std::map<std::string, std::string>& options,
                                           const at::Tensor& weight) {
  const Quantizer& quantizer = find_quantizer(name);
  return with_context(name, [&] {
    require(weight.dim() == 2 && weight.numel() > 0,
            "the weight must be a matrix [out, in] that is not empty");
    return quantizer.make(OptionValues(quantizer.options, options), weight);
  });
}

std::span<const ActivationQuantizer> activation_quantizers() {
  static const std::vector<ActivationQuantizer> table = make_activation_table();
  return table;
}

const ActivationQuantizer& find_activation_quantizer(std::string_view name) {
  return find_entry(activation_quantizers(), name, "activation quantizer");
}

std::unique_ptr<ActivationFakeQuant> make_activation_fake_quant(
    std::string_view name, const std::map<std::string, std::string>& options) {
  const ActivationQuantizer& quantizer = find_activation_quantizer(name);
  return with_context(name,
                      [&] { return quantizer.make(OptionValues(quantizer.options, options)); });
}

}  // namespace fewbit
