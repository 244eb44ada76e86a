#include "fewbit/study/export.h"

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Every column of the export, in order.
constexpr const char* kColumns[] = {"run",
                                    "N",
                                    "D",
                                    "bits",
                                    "qid",
                                    "qid_se",
                                    "loss16",
                                    "loss16_se",
                                    "vocab_size",
                                    "loss",
                                    "loss_se",
                                    "method",
                                    "recipe",
                                    "recipe_text",
                                    "group_size",
                                    "bpw",
                                    "model_bytes",
                                    "dataset",
                                    "perplexity",
                                    "kl",
                                    "kl_se",
                                    "top1_agreement",
                                    "seed",
                                    "train_seed",
                                    "lr",
                                    "schedule",
                                    "step",
                                    "checkpoint",
                                    "checkpoint_hash",
                                    "dataset_path",
                                    "dataset_sha256",
                                    "rule",
                                    "context",
                                    "windows",
                                    "scored_tokens",
                                    "token_hash",
                                    "calibration_path",
                                    "calibration_sha256",
                                    "calibration_sequences",
                                    "calibration_length",
                                    "quantize_seconds",
                                    "wall_seconds",
                                    "peak_bytes",
                                    "threads",
                                    "fewbit_version",
                                    "job",
                                    "status",
                                    "error"};

void move_key(Json& row, const Json& from, const char* key, const char* name) {
  if (from.is_object() && from.contains(key)) row[name] = from.at(key);
}

std::string csv_field(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string text = value.get<std::string>();
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::vector<Json> study_rows(const StudyStore& store) {
  std::vector<Json> rows;
  for (const Job& job : store.jobs()) {
    if (job.kind != JobKind::measure) continue;
    Json row = job.spec;
    if (const auto result = store.result(job.key)) row.update(result->result);
    const Json dataset = row.value("dataset", Json::object());
    const Json calibration = row.value("calibration", Json::object());
    const Json protocol = row.value("protocol", Json::object());
    row["dataset"] = dataset.value("name", "");
    for (const char* key : {"calibration", "protocol", "reference", "model", "divergence"}) {
      row.erase(key);
    }
    move_key(row, dataset, "path", "dataset_path");
    move_key(row, dataset, "sha256", "dataset_sha256");
    for (const char* key : {"rule", "context", "windows", "scored_tokens", "token_hash"}) {
      move_key(row, protocol, key, key);
    }
    for (const char* key : {"path", "sha256", "sequences", "length"}) {
      move_key(row, calibration, key, ("calibration_" + std::string(key)).c_str());
    }
    row["job"] = job.key;
    row["status"] = job_state_name(job.state);
    if (!job.error.empty()) row["error"] = job.error;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string study_csv(const StudyStore& store) {
  std::string csv;
  for (const char* column : kColumns) {
    csv += csv.empty() ? "" : ",";
    csv += column;
  }
  csv += "\n";
  for (const Json& row : study_rows(store)) {
    std::string line;
    for (const char* column : kColumns) {
      if (column != kColumns[0]) line += ",";
      if (row.contains(column)) line += csv_field(row.at(column));
    }
    csv += line + "\n";
  }
  return csv;
}

}  // namespace fewbit
