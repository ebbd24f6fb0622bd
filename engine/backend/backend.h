// The operations a forward pass is made of, as whole-tensor calls that every processor kind
// implements (engine/backend/cpu, engine/backend/cuda; a plain reference in tests/testing).
//
// Shapes: activations are TensorView [rows, cols] in the backend's memory. Hidden states (the
// residual stream), logits and what block scores are made of are float32 on every backend; what
// lies between two products of a layer (queries, keys, values, attention, gate, up) is of
// BackendInfo::activation_type. Rows are tokens of one or several sequences, packed without
// padding. Arithmetic rule: what is computed for one row does not depend on which other rows share
// the call, so results do not depend on chunk size or batch composition, bit for bit (CPU). Thread
// rule: one caller at a time (the worker thread); an op may use threads of its own and has
// finished, or is ordered on the backend's stream, when it returns.
// Errors: INTERNAL for a failure of the device. Shapes are the caller's duty (SLIM_CHECK).
// Lifetime: views are used only during the call, LinearWeight and Buffer are the caller's to keep.
#ifndef ENGINE_BACKEND_BACKEND_H_
#define ENGINE_BACKEND_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/tensor/tensor_view.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_memories.h"

namespace slim {

// What was found and chosen, for the log line at start and for GetServerInfo.
struct BackendInfo {
  std::string name;    // "cpu", "cuda", "reference"
  std::string device;  // processor or GPU name
  std::string isa;     // kernels chosen at run time, e.g. "avx512vnni+bf16"
  int num_threads = 0;
  KvType kv_type = KvType::kF32;        // element type of cached keys and values
  bool reads_keys_apart = false;        // wants KvManager::Options::keys_apart
  DType activation_type = DType::kF32;  // between the products of a layer
  // Prompt rows have arithmetic of their own (LinearInput::prompt_rows): calls must not mix rows.
  bool prompt_rows_apart = false;
  // Memory of the device that was free when the backend was made; 0: it works in the host's.
  int64_t free_device_bytes = 0;
  // What that memory can give at most, by its clock and width; 0: not known.
  double device_bytes_per_second = 0;
};

// Memory of the backend, freed with the object. CPU: 64-byte aligned host memory.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, int64_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr && release_) release_(data_);
  }
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  std::function<void(void*)> release_;
};

// A weight matrix [outputs, inputs] in the backend's own layout. Immutable once prepared
// (PrepareLinear, PreparePromptRows).
class LinearWeight {
 public:
  virtual ~LinearWeight() = default;
  virtual int64_t outputs() const = 0;
  virtual int64_t inputs() const = 0;
  virtual DType dtype() const = 0;    // type in the model file; the packed form keeps its precision
  virtual int64_t bytes() const = 0;  // of the packed form, without one made by PreparePromptRows
};

// See LinearInput::prompt_rows. A row's position decides, so that neither the chunk nor a cached
// prefix shows in a result.
inline constexpr int32_t kExactPositions = 48;

// What a linear layer reads: rows of x, transformed on the way in.
struct LinearInput {
  enum class Kind : uint8_t {
    kPlain,    // x[r]
    kRmsNorm,  // x[r] / sqrt(mean(x[r]^2) + eps) * norm_weight
    kSwiGlu,   // silu(x[r]) * up[r], silu(v) = v / (1 + exp(-v))
  };
  Kind kind = Kind::kPlain;
  TensorView x;
  TensorView up;                        // kSwiGlu only, same shape as x
  const Buffer* norm_weight = nullptr;  // kRmsNorm only, float32 [cols]
  float eps = 0;
  // All rows are prompt tokens behind the first kExactPositions. A backend may round more for them
  // than for other rows: there are many of them, and the large activations of a sequence, which
  // suffer most from rounding, belong to its first tokens.
  bool prompt_rows = false;
};

// One product: out[r, n] (+)= sum_k input[r, k] * weight[n, k] (+ bias[n]).
struct LinearOutput {
  const LinearWeight* weight = nullptr;
  TensorView out;                // [rows, weight->outputs()]
  bool accumulate = false;       // add to what `out` holds (the residual stream)
  const Buffer* bias = nullptr;  // float32 [outputs] or null
  // A backend that rounds activations to 8 bits keeps 16 for the products of this call (logits).
  bool precise = false;
};

// A gated feed-forward layer: out[r] += down (silu(gate input[r]) * (up input[r])).
struct FeedForwardArgs {
  LinearInput input;                   // kPlain or kRmsNorm
  const LinearWeight* gate = nullptr;  // [width, input.x.cols]
  const LinearWeight* up = nullptr;    // the same
  const LinearWeight* down = nullptr;  // [out.cols, width]
  TensorView gate_rows, up_rows;       // scratch [rows, width] of the activation type
  TensorView out;                      // float32 (the residual stream)
};

// Rotary position embedding, half-split pairs (i, i + D/2) as Hugging Face stores Llama weights, or
// neighbouring pairs (2i, 2i + 1) as GGUF files of the Llama architecture do.
struct RopeParams {
  int head_dim = 0;
  int rotary_dims = 0;  // even, <= head_dim; the rest of the head passes through
  float base = 10000.0f;
  bool neighbouring_pairs = true;
  // Divides the frequency of pair i (Llama-3 long-context scaling); empty = 1. [rotary_dims / 2]
  absl::Span<const float> frequency_factors;
};

// Where the keys and values of one row go.
struct KvSlot {
  void* slab = nullptr;  // layout KvLayout, this layer
  int32_t slot = 0;      // token within the block
};

// The rows of one sequence in an attention call and the keys they may see.
struct AttentionSequence {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  absl::Span<void* const> slabs;        // this layer's slabs, ascending by block id
  absl::Span<const int32_t> block_ids;  // block j holds the tokens at positions [B j, B (j + 1))
};

// Which number a block gets. See engine/prune/block_scorer.h for the formulas. kRecency and kRandom
// are negative controls that need no keys: the block scorer makes them itself, no backend sees
// them.
enum class ScoreKind : uint8_t {
  kUnitMax,          // max over units of the mean over heads of |qbar . krep| (as published)
  kUnitSigned,       // the same without the absolute value
  kMeanPool,         // mean over the units instead of the max
  kMaxPool,          // the block's element-wise maximum key instead of its units' means
  kWindowAttention,  // max over heads, window queries and tokens of the softmax probability
  kRecency,          // later blocks first
  kRandom,           // seeded hash of the block id
};

struct BlockScoreArgs {
  ScoreKind kind = ScoreKind::kWindowAttention;
  TensorView queries;                   // [window, heads * head_dim] after RoPE, ascending position
  absl::Span<const int32_t> positions;  // of the window's rows
  absl::Span<void* const> slabs;        // keys of the decision layer, ascending by block id
  absl::Span<const int32_t> block_ids;
  int64_t num_tokens = 0;  // prompt length: tokens at positions >= it do not exist
  int num_heads = 0;
};

// What the device spent on one kind of op.
struct OpTime {
  std::string op;
  int64_t launches = 0;
  double seconds = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;

  // Zeroed memory for activations. RESOURCE_EXHAUSTED with the bytes asked for.
  virtual absl::StatusOr<Buffer> Allocate(int64_t bytes) = 0;
  // Copies between host memory and the backend's memory (CPU: plain copies).
  virtual absl::Status CopyFromHost(const void* host, void* device, int64_t bytes) = 0;
  virtual absl::Status CopyToHost(const void* device, void* host, int64_t bytes) = 0;

  // Memory for the KV pools, and what moves slabs between them. A backend that works in the host's
  // memory has none of its own. RESOURCE_EXHAUSTED with the bytes asked for and the option that
  // asks for fewer. May outlive the backend.
  virtual absl::StatusOr<KvMemories> CreateKvMemories(const KvMemorySizes& sizes) {
    return KvMemories();
  }

  // Repacks a weight for the kernels. INVALID_ARGUMENT when cols is not a multiple of 32 for a
  // quantised type or the type is not supported.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> PrepareLinear(const HostTensor& tensor) = 0;
  // Told, once and before their first use, of all weights that prompt rows
  // (LinearInput::prompt_rows) will be multiplied with: the backend may keep what makes that
  // faster. RESOURCE_EXHAUSTED.
  virtual absl::Status PreparePromptRows(absl::Span<LinearWeight* const> weights) {
    return absl::OkStatus();
  }
  // A vector (norm weight, bias) of type F32, F16 or BF16 as float32.
  virtual absl::StatusOr<Buffer> PrepareVector(const HostTensor& tensor) = 0;

  // Tells the layouts of the calls that follow: cached keys and values, number of query heads,
  // RoPE, and the largest position + 1. Called once, before the first of the ops below.
  virtual absl::Status Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                                 int64_t max_positions) = 0;

  // out[r] = row tokens[r] of the embedding [vocabulary, width].
  virtual absl::Status Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                             TensorView out) = 0;

  // All products of one input; the input is transformed (and quantised) once for all of them.
  virtual absl::Status Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) = 0;

  // The same bits as the two calls of Linear, which it is made of where a backend has nothing
  // better.
  virtual absl::Status FeedForward(const FeedForwardArgs& args) {
    const absl::Status status =
        Linear(args.input, {LinearOutput{args.gate, args.gate_rows, false, nullptr},
                            LinearOutput{args.up, args.up_rows, false, nullptr}});
    if (!status.ok()) return status;
    LinearInput activated;
    activated.kind = LinearInput::Kind::kSwiGlu;
    activated.x = args.gate_rows;
    activated.up = args.up_rows;
    activated.prompt_rows = args.input.prompt_rows;
    return Linear(activated, {LinearOutput{args.down, args.out, /*accumulate=*/true, nullptr}});
  }

  // dst[dst_rows[i]] = src[src_rows[i]] for every i; rows of dst are distinct, src and dst are
  // apart.
  virtual absl::Status CopyRows(TensorView src, absl::Span<const int64_t> src_rows, TensorView dst,
                                absl::Span<const int64_t> dst_rows) = 0;

  // Rotates q [rows, heads * head_dim] in place by position.
  virtual absl::Status Rope(TensorView q, absl::Span<const int32_t> positions) = 0;

  // Rotates k [rows, kv_heads * head_dim] by position and writes k and v into their slots.
  virtual absl::Status RopeAndStoreKv(TensorView k, TensorView v,
                                      absl::Span<const int32_t> positions,
                                      absl::Span<const KvSlot> slots) = 0;

  // out[r, h] = softmax(q[r, h] . K / sqrt(head_dim)) V over the keys of r's sequence at positions
  // <= positions[r]. Positions ascend within a sequence; they need not be contiguous.
  // q, out: [rows, heads * head_dim]. Every row sees at least one key.
  virtual absl::Status Attention(TensorView q, absl::Span<const int32_t> positions,
                                 absl::Span<const AttentionSequence> sequences, TensorView out) = 0;

  // scores[i] for block block_ids[i], the same on every backend. NaN anywhere gives NaN.
  virtual absl::Status ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) = 0;

  // For benchmarks: times every op on the device from now on, which makes the ops slower. False:
  // this backend cannot.
  virtual bool StartOpTimes() { return false; }
  // Ends that. Times by kind of op since then, longest first; INTERNAL for a failure of the device.
  virtual absl::StatusOr<std::vector<OpTime>> TakeOpTimes() { return std::vector<OpTime>(); }
};

}  // namespace slim

#endif  // ENGINE_BACKEND_BACKEND_H_
