// The bench program: parse, open the model or the server, measure, print a table, write JSON.
// Exit status: 0 done, 1 failed, 2 wrong command line.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/status_macros.h"
#include "tools/bench/bench_options.h"
#include "tools/common/text_file.h"

namespace slim {
namespace {

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

template <typename Row>
absl::Status Publish(const BenchOptions& options, const MachineInfo& machine,
                     const std::vector<Row>& rows, const std::string& table) {
  Print(MachineLine(machine) + "\n" + table);
  if (options.json.empty()) return absl::OkStatus();
  return WriteJsonFile(options.json, ResultJson(machine, rows));
}

absl::Status RunServe(const BenchOptions& options) {
  SLIM_ASSIGN_OR_RETURN(const std::unique_ptr<ServeTarget> target,
                        ServeTarget::Connect(options.serve));
  if (options.fairness) {
    SLIM_ASSIGN_OR_RETURN(const FairnessRow row, RunFairnessBench(options.fair, *target));
    return Publish(options, target->machine(), std::vector<FairnessRow>{row}, FairnessText(row));
  }
  SLIM_ASSIGN_OR_RETURN(const std::vector<ServeRow> rows, RunServeBench(options.serve, *target));
  return Publish(options, target->machine(), rows, ServeTable(rows));
}

absl::Status Run(const BenchOptions& options) {
  if (options.command == BenchOptions::Command::kServe) return RunServe(options);
  if (options.command == BenchOptions::Command::kPrefill) {
    SLIM_ASSIGN_OR_RETURN(const std::unique_ptr<LocalModel> model, OpenLocalModel(options.local));
    SLIM_ASSIGN_OR_RETURN(const std::vector<PrefillRow> rows,
                          RunPrefillBench(options.prefill, model.get()));
    return Publish(options, model->Machine(), rows, PrefillTable(rows));
  }
  std::vector<std::unique_ptr<LocalModel>> opened;
  std::vector<LocalModel*> models;
  for (const KvChoice& kv : options.decode.kv) {
    LocalModelOptions local = options.local;
    local.kv_tier = kv.tier;
    local.kv_prefetch = kv.prefetch;
    SLIM_ASSIGN_OR_RETURN(std::unique_ptr<LocalModel> model, OpenLocalModel(local));
    models.push_back(model.get());
    opened.push_back(std::move(model));
  }
  SLIM_ASSIGN_OR_RETURN(const std::vector<DecodeRow> rows, RunDecodeBench(options.decode, models));
  return Publish(options, models[0]->Machine(), rows, DecodeTable(rows));
}

int Main(int argc, char** argv) {
  BenchOptions options;
  int exit_code = 0;
  if (!ParseBenchOptions(argc, argv, &options, &exit_code)) return exit_code;
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "error: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
               TerminalSafe(std::string(status.message())).c_str());
  return 1;
}

}  // namespace
}  // namespace slim

int main(int argc, char** argv) { return slim::Main(argc, argv); }
