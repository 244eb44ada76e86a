#include "fewbit/cli/law_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/base/options.h"
#include "fewbit/laws/fit_json.h"
#include "fewbit/laws/law_csv.h"
#include "fewbit/laws/predict.h"

namespace fewbit::cli {
namespace {

constexpr double kTrillion = 1e12;

struct NamedLaw {
  LawWithErrors law;
  double vocab = 0;
};

// A file that `fewbit law fit -o` wrote, or the name of published constants.
NamedLaw read_law(const std::string& name) {
  constexpr size_t kMaxFitBytes = size_t{256} << 20;
  if (!name.ends_with(".json")) {
    const LawPreset& preset = find_law_preset(name);
    return {published_law(preset), preset.vocab};
  }
  const Json document = parse_json(read_text_file(name, kMaxFitBytes), name);
  return with_context(name, [&] {
    return NamedLaw{law_from_json(document), json_get_or<double>(document, "vocab", 0)};
  });
}

NamedLaw read_law(const std::string& name, LawQuantity quantity) {
  NamedLaw law = read_law(name);
  const FormInfo& form = *law.law.law.form.info;
  require(form.quantity == quantity, "{}: form {} is a law of {}, not of {}", name, form.name,
          law_quantity_name(form.quantity), law_quantity_name(quantity));
  return law;
}

std::vector<double> quantities(const std::vector<std::string>& texts, const char* what) {
  std::vector<double> values;
  for (const std::string& text : texts) {
    const auto some = read_quantities(text, what);
    values.insert(values.end(), some.begin(), some.end());
  }
  return values;
}

// "group_size=128" and so on, for forms that read more than N, D and P.
void set_variables(const std::vector<std::string>& settings, LawPoint& point) {
  for (const std::string& setting : settings) {
    const RowFilter given = read_row_filter(setting);
    std::vector<std::string> names;
    bool known = false;
    for (size_t i = 0; i < kLawVariableCount; ++i) {
      const auto variable = static_cast<LawVariable>(i);
      names.emplace_back(law_variable_column(variable));
      if (names.back() != given.column) continue;
      point.set(variable, read_quantity(given.value, "--set " + given.column));
      known = true;
    }
    require(known, "--set {}: not a variable of a law; allowed: {}", setting, join_choices(names));
  }
}

struct PredictArguments {
  std::string law = "ouyang-unified", preset, loss_law;
  std::vector<std::string> params, tokens, bits, qid, settings;
  double vocabulary = 0, target_loss = 0, group_size = 0, level = 0.95;
  bool best_tokens = false, pareto = false, json = false;
};

std::string interval_text(const Interval& interval) {
  return std::isnan(interval.low) ? ""
                                  : fmt::format(" [{:.4g}, {:.4g}]", interval.low, interval.high);
}

void print_prediction(const Prediction& at, const Predictor& predictor) {
  fmt::print("N {:<9.4g} D {:<9.4g}", at.point[LawVariable::params], at.point[LawVariable::tokens]);
  if (at.point.has(LawVariable::bits)) fmt::print(" P {:<3g}", at.point[LawVariable::bits]);
  if (predictor.loss16) {
    fmt::print("  loss16 {:.4f}{}", at.loss16, interval_text(at.loss16_interval));
  }
  if (!std::isnan(at.qid)) fmt::print("  QiD {:.4g}{}", at.qid, interval_text(at.qid_interval));
  if (!std::isnan(at.loss)) fmt::print("  loss {:.4f}{}", at.loss, interval_text(at.loss_interval));
  if (at.at_or_below_random) fmt::print("  AT OR BELOW RANDOM (headroom {:.2f})", at.headroom);
  if (!at.warning.empty()) fmt::print("  {}", at.warning);
  fmt::print("\n");
}

Predictor make_predictor(const PredictArguments& arguments) {
  Predictor predictor;
  NamedLaw qid =
      read_law(arguments.preset.empty() ? arguments.law : arguments.preset, LawQuantity::qid);
  predictor.qid = std::move(qid.law);
  predictor.vocab = qid.vocab;
  predictor.level = arguments.level;
  if (!arguments.loss_law.empty()) {
    NamedLaw loss = read_law(arguments.loss_law, LawQuantity::loss16);
    predictor.loss16 = std::move(loss.law);
    if (loss.vocab > 0) predictor.vocab = loss.vocab;
  }
  if (arguments.vocabulary > 0) predictor.vocab = arguments.vocabulary;
  return predictor;
}

// One query with all that the options set; absent lists leave their variable unknown.
class Queries {
 public:
  explicit Queries(const PredictArguments& arguments) : settings_(arguments.settings) {
    params = quantities(arguments.params, "--params");
    tokens = quantities(arguments.tokens, "--tokens");
    bits = quantities(arguments.bits, "--bits");
  }
  LawPoint point(double n, double d, double p) const {
    LawPoint at;
    at.set(LawVariable::params, n);
    if (!std::isnan(d)) at.set(LawVariable::tokens, d);
    if (!std::isnan(p)) at.set(LawVariable::bits, p);
    set_variables(settings_, at);
    return at;
  }
  // The widths asked for, or one unknown.
  std::vector<double> widths() const { return bits.empty() ? std::vector{kMissing} : bits; }

  std::vector<double> params, tokens, bits;

 private:
  std::vector<std::string> settings_;
};

// Collects JSON, or prints at once.
struct Output {
  bool json;
  Json document = Json::object();

  void add(const char* list, Json entry) { document[list].push_back(std::move(entry)); }
};

void predict_grid(const Predictor& predictor, const Queries& queries, Output& output) {
  for (const double n : queries.params) {
    for (const double d : queries.tokens) {
      for (const double p : queries.widths()) {
        const Prediction at = predict(predictor, queries.point(n, d, p));
        if (output.json) {
          output.add("predictions", to_json(at));
        } else {
          print_prediction(at, predictor);
        }
      }
    }
  }
}

void plan_tokens_for_qid(const Predictor& predictor, const Queries& queries,
                         const std::vector<double>& levels, Output& output) {
  for (const double n : queries.params) {
    for (const double p : queries.widths()) {
      for (const double level : levels) {
        const double tokens =
            tokens_for_qid(predictor.qid->law, queries.point(n, kMissing, p), level);
        const std::string warning = predict(predictor, queries.point(n, tokens, p)).warning;
        if (output.json) {
          output.add("tokens_for_qid",
                     {{"N", n}, {"bits", p}, {"qid", level}, {"D", tokens}, {"warning", warning}});
        } else {
          fmt::print("N {:.4g}  P {:g}  QiD {:g} is reached at D {:.4g}  {}\n", n, p, level, tokens,
                     warning);
        }
      }
    }
  }
}

void plan_best_tokens(const Predictor& predictor, const Queries& queries, Output& output) {
  require(predictor.loss16.has_value(), "--best-tokens needs --loss-law");
  require(!queries.bits.empty(), "--best-tokens needs --bits");
  for (const double n : queries.params) {
    for (const double p : queries.bits) {
      const BestTokens best = best_tokens(predictor.loss16->law, predictor.qid->law, n, p);
      const std::string warning = predict(predictor, queries.point(n, best.tokens, p)).warning;
      if (output.json) {
        output.add("best_tokens", {{"N", n},
                                   {"bits", p},
                                   {"D", best.tokens},
                                   {"loss", best.loss},
                                   {"inside_range", best.inside},
                                   {"warning", warning}});
      } else {
        fmt::print("N {:.4g}  P {:g}  lowest loss {:.4f} at D {:.4g}{}  {}\n", n, p, best.loss,
                   best.tokens, best.inside ? "" : " (end of the searched range)", warning);
      }
    }
  }
}

void plan_smallest_bits(const Predictor& predictor, const Queries& queries, double target,
                        Output& output) {
  require(predictor.loss16.has_value(), "--target-loss needs --loss-law");
  require(!queries.bits.empty() && !queries.tokens.empty(),
          "--target-loss needs --tokens and the --bits to choose from");
  for (const double n : queries.params) {
    for (const double d : queries.tokens) {
      const auto bits = smallest_bits(predictor, n, d, target, queries.bits);
      if (output.json) {
        output.add("smallest_bits", {{"N", n},
                                     {"D", d},
                                     {"target_loss", target},
                                     {"bits", bits ? Json(*bits) : Json(nullptr)}});
      } else if (bits) {
        fmt::print("N {:.4g}  D {:.4g}  loss {:g} is reached with {:g} bits{}\n", n, d, target,
                   *bits,
                   predict(predictor, queries.point(n, d, *bits)).warning.empty()
                       ? ""
                       : "  EXTRAPOLATION BEYOND THE DATA");
      } else {
        fmt::print("N {:.4g}  D {:.4g}  loss {:g} is reached with none of these bit widths\n", n, d,
                   target);
      }
    }
  }
}

void plan_pareto(const Predictor& predictor, const Queries& queries, double group_size,
                 Output& output) {
  require(predictor.loss16.has_value(), "--pareto needs --loss-law");
  require(!queries.bits.empty(), "--pareto needs --bits");
  for (const double d : queries.tokens) {
    std::vector<SizedLoss> candidates;
    std::vector<Prediction> predictions;
    for (const double n : queries.params) {
      for (const double p : queries.bits) {
        predictions.push_back(predict(predictor, queries.point(n, d, p)));
        candidates.push_back(
            {n * effective_bits(p, group_size), predictions.back().loss, candidates.size()});
      }
    }
    if (!output.json) fmt::print("Lowest loss for its total bits, at D {:.4g}:\n", d);
    for (const SizedLoss& best : pareto_front(candidates)) {
      const Prediction& at = predictions[best.index];
      if (output.json) {
        Json entry = to_json(at);
        entry["total_bits"] = best.total_bits;
        output.add("pareto", std::move(entry));
      } else {
        fmt::print("  {:>10.4g} bits  ", best.total_bits);
        print_prediction(at, predictor);
      }
    }
  }
}

void run_predict(const PredictArguments& arguments) {
  const Predictor predictor = make_predictor(arguments);
  const Queries queries(arguments);
  const auto levels = quantities(arguments.qid, "--qid");
  require(!queries.tokens.empty() || !levels.empty() || arguments.best_tokens,
          "give --tokens, or --qid or --best-tokens to find them");
  Output output{arguments.json};
  if (arguments.target_loss > 0) {
    plan_smallest_bits(predictor, queries, arguments.target_loss, output);
  } else if (arguments.pareto) {
    plan_pareto(predictor, queries, arguments.group_size, output);
  } else {
    predict_grid(predictor, queries, output);
  }
  plan_tokens_for_qid(predictor, queries, levels, output);
  if (arguments.best_tokens) plan_best_tokens(predictor, queries, output);
  if (arguments.json) fmt::print("{}\n", output.document.dump(2));
}

struct TableArguments {
  std::string law;
  std::vector<std::string> params = {"1B", "7B", "70B", "405B"}, bits = {"2", "3", "4"},
                           qid = {"0.2", "0.3", "0.4", "0.5"};
  bool json = false;
};

// One table in the layout of Table 1: a line for each size, a column for each level and bit width.
template <class Entry>
void print_table(const std::string& title, const std::vector<double>& params,
                 const std::vector<double>& levels, const std::vector<double>& bits, Entry entry) {
  fmt::print("{}\n{:>8}", title, "N");
  for (const double level : levels) {
    for (const double width : bits) {
      fmt::print(" {:>10}", fmt::format("{:g}: {:g}b", level, width));
    }
  }
  fmt::print("\n");
  for (const double n : params) {
    fmt::print("{:>8.4g}", n);
    for (const double level : levels) {
      for (const double width : bits) fmt::print(" {:>10.4f}", entry(n, level, width));
    }
    fmt::print("\n");
  }
}

void run_table(const TableArguments& arguments) {
  const auto params = quantities(arguments.params, "--params"),
             levels = quantities(arguments.qid, "--qid"),
             bits = quantities(arguments.bits, "--bits");
  const bool published = arguments.law.empty();
  const Law main = published ? law_of(find_law_preset("ouyang-per-bits"))
                             : read_law(arguments.law, LawQuantity::qid).law.law;
  const Law unified = law_of(find_law_preset("ouyang-unified"));
  const auto by_main = [&](double n, double level, double width) {
    return tokens_for_qid(main, n, width, level) / kTrillion;
  };
  const auto by_unified = [&](double n, double level, double width) {
    return tokens_for_qid(unified, n, width, level) / kTrillion;
  };
  if (arguments.json) {
    Json list = Json::array();
    for (const double n : params) {
      for (const double level : levels) {
        for (const double width : bits) {
          Json row = {{"N", n},
                      {"qid", level},
                      {"bits", width},
                      {"tokens_trillion", by_main(n, level, width)}};
          if (published) row["tokens_trillion_unified"] = by_unified(n, level, width);
          list.push_back(std::move(row));
        }
      }
    }
    fmt::print("{}\n", list.dump(2));
    return;
  }
  print_table(published
                  ? std::string("Trillions of tokens at which QiD reaches a level, by the law of "
                                "each bit width:\nTable 1 of arXiv 2411.17691 as printed")
                  : "Trillions of tokens at which QiD reaches a level, by " + arguments.law,
              params, levels, bits, by_main);
  if (!published) return;
  print_table("\nBy the paper's unified law, which does not reproduce its Table 1", params, levels,
              bits, by_unified);
  double squares = 0, count = 0;
  print_table("\nRatio of the two", params, levels, bits,
              [&](double n, double level, double width) {
                const double ratio = by_main(n, level, width) / by_unified(n, level, width);
                squares += std::log(ratio) * std::log(ratio);
                ++count;
                return ratio;
              });
  fmt::print("rms of the logarithm of the ratio: {:.3f}\n", std::sqrt(squares / count));
}

}  // namespace

void add_law_predict(CLI::App& verb) {
  CLI::App* predict = verb.add_subcommand("predict", "QiD and loss at sizes, tokens and bits");
  auto a = std::make_shared<PredictArguments>();
  predict->add_option("--law", a->law,
                      "law of QiD: a file of law fit -o, or a preset (default ouyang-unified)");
  predict->add_option("--preset", a->preset, "published constants by name, in place of --law")
      ->excludes("--law");
  predict->add_option("--loss-law", a->loss_law,
                      "law of the loss before quantization: a file or a preset (pythia-kaplan)");
  predict->add_option("--params,--N", a->params, "N: 7e9, 7B, lists with commas")->required();
  predict->add_option("--tokens,--D", a->tokens, "D: 15e12, 15T, lists with commas");
  predict->add_option("--bits,--P", a->bits, "P, lists with commas");
  predict->add_option("--set", a->settings,
                      "another variable of the form: --set group_size=128; may be repeated");
  predict
      ->add_option("--vocabulary", a->vocabulary,
                   "entries: the loss is cut at its logarithm (default: that of the laws)")
      ->check(CLI::Range(0.0, 1e9));
  predict->add_option("--qid", a->qid, "also the tokens at which QiD reaches these levels");
  predict->add_flag("--best-tokens", a->best_tokens,
                    "also the tokens beyond which training hurts the quantized model");
  predict
      ->add_option("--target-loss", a->target_loss,
                   "the smallest of the bit widths whose loss is at most this")
      ->check(CLI::PositiveNumber);
  predict->add_flag("--pareto", a->pareto, "only what nothing beats in total bits and loss");
  predict
      ->add_option("--group-size", a->group_size,
                   "for --pareto: count scales and zero points of such groups (default none)")
      ->check(CLI::Range(1.0, 1e6));
  predict->add_option("--level", a->level, "of the intervals (default 0.95)")
      ->check(CLI::Range(0.5, 0.999));
  predict->add_flag("--json", a->json, "machine-readable");
  predict->footer(
      "Examples:\n"
      "  fewbit law predict --law gptq.json --params 7B --tokens 1T,10T --bits 2,3,4\n"
      "  fewbit law predict --preset ouyang-per-bits --loss-law pythia-kaplan --params 7B,70B \\\n"
      "      --tokens 1T,100T --bits 2,3,4 --qid 0.2,0.5 --best-tokens");
  predict->callback([a] { run_predict(*a); });
}

void add_law_table(CLI::App& verb) {
  CLI::App* table = verb.add_subcommand(
      "table", "Tokens at which QiD reaches a level: the published Table 1, or any law");
  auto a = std::make_shared<TableArguments>();
  table->add_option("--law,--preset", a->law,
                    "a file of law fit -o, or a preset (default: Table 1 and the unified law)");
  table->add_option("--params,--N", a->params, "sizes (default 1B,7B,70B,405B)");
  table->add_option("--qid", a->qid, "levels (default 0.2,0.3,0.4,0.5)");
  table->add_option("--bits,--P", a->bits, "bit widths (default 2,3,4)");
  table->add_flag("--json", a->json, "machine-readable");
  table->footer(
      "Examples:\n"
      "  fewbit law table\n"
      "  fewbit law table --law gptq.json --params 100M,1B --qid 0.1,0.2");
  table->callback([a] { run_table(*a); });
}

}  // namespace fewbit::cli
