// Speed of the CPU kernels at the shapes of the default model, beside what the machine can do at
// best. Usage: kernel_bench [--threads=N] [--isa=NAME] [--only=gemm|gemv|attention|decode|rest]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "engine/backend/cpu/cpu_backend.h"
#include "engine/base/check.h"
#include "tools/common/machine_probe.h"

namespace slim {
namespace {

// Per second; 0: the kernels have no such instruction.
struct MachinePeaks {
  double int8_ops = 0;
  double bf16_ops = 0;
  double fp32_ops = 0;
  double read_bytes = 0;
};

struct Bench {
  std::unique_ptr<Backend> backend;
  MachinePeaks peaks;
};

double OrDie(const absl::StatusOr<double>& value) {
  SLIM_CHECK(value.ok());
  return *value;
}

MachinePeaks MeasurePeaks(const BackendInfo& info) {
  MachineProbe probe(info.isa, info.num_threads);
  return {OrDie(probe.PeakOps(Arithmetic::kInt8)), OrDie(probe.PeakOps(Arithmetic::kBf16)),
          OrDie(probe.PeakOps(Arithmetic::kFp32)), OrDie(probe.ReadBandwidth())};
}

// Median seconds of one call, after warming up; about a quarter of a second in all.
template <typename F>
double MedianSeconds(const F& call) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [&] {
    const auto start = Clock::now();
    call();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  seconds();
  const double once = std::max(1e-7, seconds());
  const int rounds = std::clamp(static_cast<int>(0.25 / once), 5, 2001);
  std::vector<double> times(rounds);
  for (double& t : times) t = seconds();
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[rounds / 2];
}

double Percent(double value, double peak) { return peak > 0 ? 100 * value / peak : 0; }

// Copies of one weight, so many that they do not fit the caches.
struct Weights {
  std::vector<std::unique_ptr<LinearWeight>> copies;
  size_t next = 0;
  const LinearWeight* Next() { return copies[next++ % copies.size()].get(); }
};

Weights MakeWeights(Backend& backend, DType dtype, int64_t outputs, int64_t inputs, int copies) {
  HostTensor tensor;
  tensor.name = "bench";
  tensor.dtype = dtype;
  tensor.rows = outputs;
  tensor.cols = inputs;
  // 0x1c1c is a small half; as nibbles and bytes any pattern will do.
  const std::vector<uint8_t> bytes(tensor.bytes(), 0x1c);
  tensor.data = bytes.data();
  Weights weights;
  for (int i = 0; i < copies; ++i) {
    auto weight = backend.PrepareLinear(tensor);
    SLIM_CHECK(weight.ok());
    SLIM_CHECK(backend.PreparePromptRows({weight->get()}).ok());
    weights.copies.push_back(*std::move(weight));
  }
  return weights;
}

std::vector<float> Noise(int64_t count) {
  std::vector<float> values(count);
  uint32_t state = 1;
  for (float& v : values) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return values;
}

void BenchLinear(Bench& bench, DType dtype, int64_t rows, int64_t outputs, int64_t inputs) {
  const int64_t bytes = outputs * (inputs / BlockElements(dtype)) * BlockBytes(dtype);
  const int copies = rows <= 16 ? static_cast<int>((96 << 20) / bytes + 1) : 1;
  Weights weights = MakeWeights(*bench.backend, dtype, outputs, inputs, copies);
  std::vector<float> x = Noise(rows * inputs), y(rows * outputs);
  LinearInput input;
  input.x = {x.data(), rows, inputs};
  input.prompt_rows = rows > 16;  // as in a prefill step
  const double seconds = MedianSeconds([&] {
    const LinearOutput output{weights.Next(), {y.data(), rows, outputs}, false, nullptr};
    SLIM_CHECK(bench.backend->Linear(input, {output}).ok());
  });
  const bool quantized = BlockElements(dtype) == 32;
  const double ops = 2.0 * rows * outputs * inputs / seconds;
  const double read = static_cast<double>(bytes) / seconds;
  std::printf("linear %-4s M %4ld N %5ld K %4ld  %9.1f us  %7.1f GOP/s  %5.1f %% of peak",
              std::string(DTypeName(dtype)).c_str(), rows, outputs, inputs, seconds * 1e6,
              ops * 1e-9, Percent(ops, quantized ? bench.peaks.int8_ops : bench.peaks.fp32_ops));
  if (rows <= 16) {
    std::printf("  %6.1f GB/s  %5.1f %% of read", read * 1e-9,
                Percent(read, bench.peaks.read_bytes));
  }
  std::printf("\n");
}

// Keys and values of one sequence in blocks of 32 tokens, heads as in the default model. The slabs
// of a block's layers lie side by side, or (by_layer) those of a layer's blocks do, keys and values
// apart, as an engine has them.
struct Cache {
  static constexpr int kHeads = 9, kKvHeads = 3, kDims = 64, kBlock = 32;
  Cache(Backend& backend, int64_t tokens, int num_layers, bool by_layer) {
    KvLayout layout;
    layout.num_kv_heads = kKvHeads;
    layout.head_dim = kDims;
    layout.block_tokens = kBlock;
    layout.type = backend.info().kv_type;
    slab_bytes = layout.slab_bytes();
    const int64_t blocks = (tokens + kBlock - 1) / kBlock, slabs_in_all = num_layers * blocks;
    if (by_layer) layout.values_after = slabs_in_all * layout.key_elements();
    RopeParams rope;
    rope.head_dim = rope.rotary_dims = kDims;
    SLIM_CHECK(backend.Configure(layout, kHeads, rope, 16384).ok());
    auto buffer = backend.Allocate(slabs_in_all * layout.slab_bytes());
    SLIM_CHECK(buffer.ok());
    memory = *std::move(buffer);
    layers.resize(num_layers);
    for (int64_t b = 0; b < blocks; ++b) {
      block_ids.push_back(static_cast<int32_t>(b));
      for (int l = 0; l < num_layers; ++l) {
        const int64_t offset = by_layer ? (l * blocks + b) * (layout.slab_bytes() / 2)
                                        : (b * num_layers + l) * layout.slab_bytes();
        layers[l].push_back(static_cast<char*>(memory.data()) + offset);
      }
    }
    const int64_t cols = kKvHeads * kDims;
    std::vector<int32_t> positions;
    for (int32_t p = 0; p < tokens; ++p) positions.push_back(p);
    for (const std::vector<void*>& slabs : layers) {
      std::vector<float> k = Noise(tokens * cols), v = k;
      std::vector<KvSlot> slots;
      for (int32_t p = 0; p < tokens; ++p) slots.push_back({slabs[p / kBlock], p % kBlock});
      SLIM_CHECK(
          backend
              .RopeAndStoreKv({k.data(), tokens, cols}, {v.data(), tokens, cols}, positions, slots)
              .ok());
    }
  }
  int64_t slab_bytes = 0;
  Buffer memory;
  std::vector<std::vector<void*>> layers;
  std::vector<int32_t> block_ids;
};

// The last `rows` tokens of a sequence of `tokens`. One row reads far more than it computes: there
// the calls go through the layers of a model in turn, so that nothing comes from the caches.
void BenchAttention(Bench& bench, int64_t tokens, int64_t rows, bool by_layer = false) {
  Cache cache(*bench.backend, tokens, rows == 1 ? 30 : 1, by_layer);
  const int64_t cols = Cache::kHeads * Cache::kDims;
  std::vector<float> q = Noise(rows * cols), out(rows * cols);
  std::vector<int32_t> positions;
  double visible = 0;
  for (int64_t r = 0; r < rows; ++r) {
    positions.push_back(static_cast<int32_t>(tokens - rows + r));
    visible += positions.back() + 1;
  }
  size_t layer = 0;
  const double seconds = MedianSeconds([&] {
    AttentionSequence sequence;
    sequence.num_rows = rows;
    sequence.slabs = cache.layers[layer++ % cache.layers.size()];
    sequence.block_ids = cache.block_ids;
    SLIM_CHECK(
        bench.backend
            ->Attention({q.data(), rows, cols}, positions, {sequence}, {out.data(), rows, cols})
            .ok());
  });
  const double ops = 4.0 * Cache::kDims * Cache::kHeads * visible / seconds;
  const double read =
      static_cast<double>(cache.slab_bytes) / Cache::kBlock * static_cast<double>(tokens) / seconds;
  const double peak = bench.peaks.bf16_ops > 0 ? bench.peaks.bf16_ops : bench.peaks.fp32_ops;
  std::printf("attention rows %4ld of %5ld  %9.1f us  %7.1f GOP/s  %5.1f %% of %s peak", rows,
              tokens, seconds * 1e6, ops * 1e-9, Percent(ops, peak),
              bench.peaks.bf16_ops > 0 ? "bf16" : "fp32");
  if (rows == 1) {
    std::printf("  %6.1f GB/s  %5.1f %% of read, slabs by %s", read * 1e-9,
                Percent(read, bench.peaks.read_bytes), by_layer ? "layer" : "block");
  }
  std::printf("\n");
}

// The smaller ops of one layer at `rows` rows, as microseconds.
void BenchRest(Bench& bench, int64_t rows) {
  Cache cache(*bench.backend, rows, 1, false);
  std::vector<int32_t> positions;
  std::vector<KvSlot> slots;
  for (int32_t p = 0; p < rows; ++p) {
    positions.push_back(p);
    slots.push_back({cache.layers[0][p / Cache::kBlock], p % Cache::kBlock});
  }
  std::vector<float> q = Noise(rows * 576), k = Noise(rows * 192), v = k, wide = Noise(rows * 1536);
  std::vector<float> out(rows * 16);
  const double rope = MedianSeconds([&] {
    SLIM_CHECK(bench.backend->Rope({q.data(), rows, 576}, positions).ok());
  });
  const double store = MedianSeconds([&] {
    SLIM_CHECK(bench.backend
                   ->RopeAndStoreKv({k.data(), rows, 192}, {v.data(), rows, 192}, positions, slots)
                   .ok());
  });
  // A weight of one tile: nearly all of the time is the input's transform and quantisation.
  Weights narrow = MakeWeights(*bench.backend, DType::kQ4_1, 16, 1536, 1);
  LinearInput input;
  input.x = input.up = {wide.data(), rows, 1536};
  const LinearOutput output{narrow.Next(), {out.data(), rows, 16}, false, nullptr};
  const auto linear = [&] { SLIM_CHECK(bench.backend->Linear(input, {output}).ok()); };
  const double plain = MedianSeconds(linear);
  input.kind = LinearInput::Kind::kSwiGlu;
  const double swiglu = MedianSeconds(linear);
  std::printf(
      "rest rows %4ld  rope %.1f us  rope+store %.1f us  quantise 1536 %.1f us  swiglu + "
      "quantise 1536 %.1f us\n",
      rows, rope * 1e6, store * 1e6, plain * 1e6, swiglu * 1e6);
  const int64_t window = std::min<int64_t>(24, rows);
  BlockScoreArgs args;
  args.queries = {q.data(), window, 576};
  args.positions = absl::MakeConstSpan(positions).subspan(rows - window);
  args.slabs = cache.layers[0];
  args.block_ids = cache.block_ids;
  args.num_tokens = rows;
  args.num_heads = Cache::kHeads;
  std::vector<float> scores(cache.layers[0].size());
  const double score = MedianSeconds(
      [&] { SLIM_CHECK(bench.backend->ScoreBlocks(args, absl::MakeSpan(scores)).ok()); });
  std::printf("rest rows %4ld  block scores (window of 24) %.1f us\n", rows, score * 1e6);
}

int Main(int argc, char** argv) {
  CpuBackendOptions options;
  options.isa = SupportedIsas(DetectCpuFeatures()).back();
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view arg = argv[i];
    bool good = true;
    if (absl::StartsWith(arg, "--threads=")) {
      good = absl::SimpleAtoi(arg.substr(10), &options.num_threads);
    } else if (absl::StartsWith(arg, "--isa=")) {
      good = false;
      for (const CpuIsa isa : SupportedIsas(DetectCpuFeatures())) {
        if (CpuIsaName(isa) != arg.substr(6)) continue;
        options.isa = isa;
        good = true;
      }
    } else if (absl::StartsWith(arg, "--only=")) {
      only = std::string(arg.substr(7));
    } else {
      good = false;
    }
    if (!good) {
      std::fprintf(stderr, "unknown or unsupported: %s\n", argv[i]);
      return 2;
    }
  }
  Bench bench;
  auto backend = CpuBackend::Create(options);
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
    return 1;
  }
  bench.backend = *std::move(backend);
  const BackendInfo& info = bench.backend->info();
  bench.peaks = MeasurePeaks(info);
  std::printf(
      "%s, %s, %d threads\npeaks: int8 %.0f GOP/s, bf16 %.0f, fp32 %.0f GFLOP/s, read %.1f "
      "GB/s\n",
      info.device.c_str(), info.isa.c_str(), info.num_threads, bench.peaks.int8_ops * 1e-9,
      bench.peaks.bf16_ops * 1e-9, bench.peaks.fp32_ops * 1e-9, bench.peaks.read_bytes * 1e-9);
  const auto wanted = [&](absl::string_view part) { return only.empty() || part == only; };
  const std::vector<std::pair<int64_t, int64_t>> shapes = {
      {576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
  for (const int64_t rows : {1, 4, 8, 16, 64, 256, 512}) {
    if (!wanted(rows <= 16 ? "gemv" : "gemm")) continue;
    for (const auto& [outputs, inputs] : shapes) {
      const bool head = outputs == 49152;
      if (head && rows > 16 && rows < 512) continue;
      BenchLinear(bench, head ? DType::kQ8_0 : DType::kQ4_1, rows, outputs, inputs);
    }
  }
  if (wanted("gemm")) BenchLinear(bench, DType::kF32, 512, 576, 576);
  if (wanted("gemm")) BenchLinear(bench, DType::kBF16, 512, 576, 576);
  if (wanted("attention")) {
    for (const int64_t tokens : {512, 1024, 2048, 4096, 8192}) BenchAttention(bench, tokens, 512);
  }
  if (wanted("decode")) {
    for (const bool by_layer : {false, true}) {
      for (const int64_t tokens : {128, 1024, 2048, 8192}) {
        BenchAttention(bench, tokens, 1, by_layer);
      }
    }
  }
  if (wanted("rest")) {
    for (const int64_t rows : {1, 512, 4096}) BenchRest(bench, rows);
  }
  return 0;
}

}  // namespace
}  // namespace slim

int main(int argc, char** argv) { return slim::Main(argc, argv); }
