// Fits as JSON: to be stored, read by other programs, and read back for predictions.
#pragma once

#include "fewbit/base/json.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/compare.h"
#include "fewbit/laws/fit.h"
#include "fewbit/laws/holdout.h"
#include "fewbit/laws/predict.h"

namespace fewbit {

// Version of the document; docs/laws.md defines it.
inline constexpr int kFitSchema = 1;

// `bootstrap` may be null: then the document has no draws. At most `max_draws` are stored.
Json to_json(const LawData& data, const FitResult& fit, const BootstrapResult* bootstrap,
             size_t max_draws = 1000);
Json to_json(const HoldOutErrors& errors);
Json to_json(const HoldOutFit& fit, const Form& form);
Json to_json(const Extrapolation& split, const Form& form);
Json to_json(const Comparison& comparison, const LawData& data);
Json to_json(const Prediction& prediction);

// The law of a document that to_json() made, with its draws and the hull of its points. Errors name
// the key.
LawWithErrors law_from_json(const Json& document);

}  // namespace fewbit
