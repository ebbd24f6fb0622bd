#include "tools/common/result_json.h"

#include <cmath>
#include <cstdio>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/common/text_file.h"

namespace slim {
namespace {

using nlohmann::json;

// The keys that readers rely on.
void ExpectKeys(const json& object, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) EXPECT_TRUE(object.contains(key)) << key;
}

TEST(ResultJsonTest, HasMachineAndRows) {
  MachineInfo machine{"A CPU", "avx2", 2, "", "abc"};
  PrefillRow row;
  row.length = 512;
  row.pruning = "off";
  const json result = ResultJson(machine, std::vector<PrefillRow>{row, row});
  ExpectKeys(result["machine"], {"cpu", "isa", "threads", "gpu", "commit"});
  EXPECT_TRUE(result["machine"]["gpu"].is_null());
  EXPECT_TRUE(result["machine"]["load_seconds"].is_null());
  machine.load_seconds = 0.25;
  EXPECT_EQ(ToJson(machine)["load_seconds"], 0.25);
  ASSERT_EQ(result["rows"].size(), 2u);
  EXPECT_EQ(result["rows"][0]["length"], 512);
}

TEST(ResultJsonTest, EveryRowHasItsFixedKeys) {
  ExpectKeys(ToJson(PrefillRow()),
             {"length", "pruning", "runs", "ttft_seconds_median", "ttft_seconds_p95",
              "tokens_per_second", "retained_tokens", "bound_speedup", "speedup_vs_off"});
  ExpectKeys(ToJson(DecodeRow()), {"context", "streams", "tokens_per_second",
                                   "seconds_per_token_median", "prefill_seconds_median"});
  ExpectKeys(ToJson(ServeRow()),
             {"rate", "completed", "rejected", "ttft_seconds_p50", "ttft_seconds_p99",
              "inter_token_seconds_p50", "inter_token_seconds_p99", "tokens_per_second"});
  ExpectKeys(ToJson(EvalRow()), {"task", "length", "pruning", "n", "accuracy", "ci95_low",
                                 "ci95_high", "kl_mean", "answer_nll", "block_recall"});
  EXPECT_EQ(ToJson(FairnessRow())["scenario"], "fairness");
}

TEST(ResultJsonTest, WhatIsNotKnownIsNull) {
  const json row = ToJson(PrefillRow());
  EXPECT_TRUE(row["speedup_vs_off"].is_null());
  EXPECT_EQ(json::parse(row.dump()), row);
  EXPECT_TRUE(ToJson(EvalRow())["length"].is_null());
  EXPECT_TRUE(row["roofline"].is_null());
  EXPECT_TRUE(ToJson(DecodeRow())["roofline"].is_null());
}

TEST(ResultJsonTest, ARooflineIsAnObject) {
  PrefillRow prefill;
  prefill.roofline.emplace();
  prefill.roofline->linear_operations = 3e9;
  ExpectKeys(ToJson(prefill)["roofline"],
             {"linear_operations", "attention_operations", "operations_per_second",
              "peak_arithmetic", "peak_operations_per_second", "share_of_peak"});
  EXPECT_EQ(ToJson(prefill)["roofline"]["linear_operations"], 3e9);
  DecodeRow decode;
  decode.roofline.emplace();
  decode.roofline->kv_bytes = 5e6;
  ExpectKeys(ToJson(decode)["roofline"],
             {"weight_bytes", "kv_bytes", "bytes_per_second", "read_bytes_per_second_before",
              "read_bytes_per_second_after", "share_of_read"});
  EXPECT_EQ(ToJson(decode)["roofline"]["kv_bytes"], 5e6);
}

TEST(ResultJsonTest, WritesAFileThatReadsBack) {
  const std::string path = testing::TempDir() + "/result_json_test.json";
  const json result = ResultJson(MachineInfo{}, std::vector<ServeRow>{ServeRow()});
  ASSERT_TRUE(WriteJsonFile(path, result).ok());
  const auto text = ReadTextFile(path, 1 << 20);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(json::parse(*text), result);
  std::remove(path.c_str());
}

TEST(ResultJsonTest, SaysWhereItCannotWrite) {
  const absl::Status status = WriteJsonFile("/nowhere/at/all.json", json::object());
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("/nowhere/at/all.json"));
}

TEST(MachineLineTest, NamesWhatMatters) {
  const std::string line = MachineLine(MachineInfo{"A CPU", "avx2", 2, "", "abc"});
  EXPECT_EQ(line, "machine: A CPU, kernels avx2, threads 2, commit abc");
  EXPECT_FALSE(BuildCommit().empty());
}

}  // namespace
}  // namespace slim
