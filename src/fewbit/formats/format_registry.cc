#include "fewbit/formats/format_registry.h"

#include "fewbit/base/error.h"
#include "fewbit/formats/codebook_grid.h"
#include "fewbit/formats/hqq_grid.h"
#include "fewbit/formats/uniform_grid.h"

namespace fewbit {
namespace {

// -1 and 0 both mean the whole row.
size_t group_size_of(int64_t value) { return value <= 0 ? 0 : static_cast<size_t>(value); }

constexpr int64_t kMaxGroup = 1 << 20;

std::unique_ptr<Grid> make_uniform(const OptionValues& values) {
  using Options = UniformGridOptions;
  Options options;
  options.bits = static_cast<int>(values.integer("bits"));
  options.group_size = group_size_of(values.integer("group_size"));
  const std::string& symmetry = values.text("symmetry");
  options.symmetry = symmetry == "asymmetric"   ? Options::Symmetry::asymmetric
                     : symmetry == "sym_offset" ? Options::Symmetry::sym_offset
                                                : Options::Symmetry::sym_signed;
  options.range =
      values.text("range") == "with_zero" ? Options::Range::with_zero : Options::Range::min_max;
  options.clip = values.text("clip") == "none" ? Options::Clip::none : Options::Clip::mse;
  options.mse_norm = values.real("mse_norm");
  options.mse_grid = static_cast<int>(values.integer("mse_grid"));
  options.mse_shrink = values.real("mse_shrink");
  options.mse_zero_neighbour = values.boolean("mse_zero_neighbour");
  options.scale_dtype = float_dtype_from_word(values.text("scale_dtype"));
  return std::make_unique<UniformGrid>(options);
}

Format uniform_format() {
  using Spec = OptionSpec;
  return {
      "uniform",
      "Affine codes, w = scale * (code - zero_point), one scale per row and group of columns",
      "GPTQ (arXiv 2210.17323), AWQ (arXiv 2306.00978)",
      {Spec::make_integer("bits", 4, 1, 8, "bits of a code"),
       Spec::make_integer("group_size", 128, -1, kMaxGroup,
                          "columns that share a scale; -1 or 0: the whole row"),
       Spec::make_choice(
           "symmetry", "asymmetric", {"asymmetric", "sym_offset", "sym_signed"},
           "a zero point per group; or codes around 0 with scale 2 max / (2^bits - 1) "
           "(GPTQ), or scale max / (2^(bits-1) - 1) (QuaRot, AWQ)"),
       Spec::make_choice("range", "with_zero", {"with_zero", "min_max"},
                         "range of a group: contains 0 (GPTQ), or just its values (AWQ)"),
       Spec::make_choice("clip", "none", {"none", "mse"},
                         "search the clipping that gives the smallest error of the weights"),
       Spec::make_real("mse_norm", 2.4, 0.5, 8, "exponent of that error"),
       Spec::make_integer("mse_grid", 100, 1, 10000, "steps of the search per whole range"),
       Spec::make_real("mse_shrink", 0.8, 0.01, 1, "largest part of the range that is cut off"),
       Spec::make_boolean("mse_zero_neighbour", false,
                          "also try the second-nearest zero point; helps at 2 bits"),
       Spec::make_choice("scale_dtype", "f16", {"f16", "bf16", "f32"}, "type of stored scales")},
      make_uniform};
}

std::unique_ptr<Grid> make_hqq(const OptionValues& values) {
  require(
      values.text("axis") == "1",
      "axis=0 (groups along the output rows, each with a scale per column) is not stored by any "
      "plane and read by no kernel of fewbit; allowed: 1");
  HqqGridOptions options;
  options.bits = static_cast<int>(values.integer("bits"));
  options.group_size = group_size_of(values.integer("group_size"));
  const std::string& round_zero = values.text("round_zero");
  options.round_zero = round_zero == "auto" ? options.bits == 4 : round_zero == "true";
  options.stop =
      values.text("stop") == "group" ? HqqGridOptions::Stop::group : HqqGridOptions::Stop::tensor;
  options.iterations = static_cast<int>(values.integer("iterations"));
  options.norm = values.real("norm");
  options.beta = values.real("beta");
  options.scale_dtype = float_dtype_from_word(values.text("scale_dtype"));
  return std::make_unique<HqqGrid>(options);
}

Format hqq_format() {
  using Spec = OptionSpec;
  return {"hqq",
          "Affine codes with a real zero point that is fitted to a norm below 1 of the error",
          "Half-Quadratic Quantization (mobiusml/hqq, 2023)",
          {Spec::make_integer("bits", 4, 1, 8, "bits of a code"),
           Spec::make_integer("group_size", 64, -1, kMaxGroup,
                              "columns that share a scale; -1 or 0: the whole row"),
           Spec::make_choice("axis", "1", {"0", "1"},
                             "groups of columns of a row (1); groups of rows (0) are refused"),
           Spec::make_choice("stop", "group", {"group", "tensor"},
                             "end the search for each group, or for the whole matrix as the "
                             "reference does"),
           Spec::make_integer("iterations", 20, 0, 10000, "steps of the search at most"),
           Spec::make_real("norm", 0.7, 0.05, 1, "exponent p of the error"),
           Spec::make_real("beta", 10, 1e-3, 1e6, "weight of the proximal step"),
           Spec::make_choice("round_zero", "auto", {"auto", "true", "false"},
                             "start from a rounded zero point; auto: at 4 bits (the reference)"),
           Spec::make_choice("scale_dtype", "f16", {"f16", "bf16", "f32"},
                             "type of stored scales and zero points")},
          make_hqq};
}

std::unique_ptr<Grid> make_codebook(const std::string& codebook, const OptionValues& values) {
  CodebookGridOptions options;
  options.codebook = codebook;
  options.block_size = static_cast<size_t>(values.integer("block_size"));
  options.blocks = values.text("blocks") == "rows" ? CodebookPlane::Blocks::rows
                                                   : CodebookPlane::Blocks::flattened;
  options.double_quantized = values.boolean("double_quant");
  options.absmax_dtype = float_dtype_from_word(values.text("absmax_dtype"));
  options.assign_with_original = values.text("assign_with") == "original";
  return std::make_unique<CodebookGrid>(options);
}

Format codebook_format(const std::string& codebook, std::string help, std::string source) {
  using Spec = OptionSpec;
  return {codebook,
          std::move(help),
          std::move(source),
          {Spec::make_integer("block_size", 64, 1, kMaxGroup, "weights that share an absmax"),
           Spec::make_choice("blocks", "flattened", {"flattened", "rows"},
                             "blocks run on across rows (bitsandbytes), or end with each row"),
           Spec::make_boolean("double_quant", false, "store absmax as 8-bit codes (QLoRA)"),
           Spec::make_choice("absmax_dtype", "f32", {"f32", "f16", "bf16"},
                             "type of a stored absmax without double_quant"),
           Spec::make_choice(
               "assign_with", "stored", {"stored", "original"},
               "codes nearest under the absmax as stored, or as measured (bitsandbytes)")},
          [codebook](const OptionValues& values) { return make_codebook(codebook, values); }};
}

}  // namespace

std::span<const Format> formats() {
  static const std::vector<Format> all = {
      uniform_format(),
      codebook_format("nf4", "16 levels at quantiles of the normal distribution, times absmax",
                      "QLoRA (arXiv 2305.14314)"),
      codebook_format("fp4", "16 levels of a float with 2 exponent bits and 1 mantissa bit",
                      "bitsandbytes"),
      codebook_format("af4", "16 levels that minimise the absolute error of normal weights",
                      "arXiv 2306.06965"),
      hqq_format(),
  };
  return all;
}

const Format& find_format(std::string_view name) {
  std::vector<std::string> known;
  for (const Format& format : formats()) {
    if (format.name == name) return format;
    known.push_back(format.name);
  }
  fail("format '{}' is not known; known: {}", name, join_choices(known));
}

std::unique_ptr<Grid> grid_from_options(std::string_view name,
                                        const std::map<std::string, std::string>& options) {
  const Format& format = find_format(name);
  return with_context(fmt::format("format '{}'", name),
                      [&] { return format.make(OptionValues(format.options, options)); });
}

}  // namespace fewbit
