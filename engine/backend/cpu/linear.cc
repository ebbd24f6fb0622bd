// Linear layers: every row is transformed and quantised once, then products go out as (rows, tiles)
// parts that the threads take one after the other.

#include <algorithm>
#include <array>

#include "engine/backend/cpu/ops.h"
#include "engine/backend/cpu/packed_weight.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

constexpr int kMaxOutputs = 16;
// Rows of a wide part: their quantised inputs stay in the second-level cache while the panels of
// the weight pass by.
constexpr int64_t kPartRows = 128;
constexpr int64_t kTransformElements = 8192;
constexpr int64_t kPanelOutputs = kMaxPanelTiles * kTileOutputs;
// Prompt rows of one part at most: so many share the reading of a panel, and their bytes stay in
// the second-level cache.
constexpr int64_t kPromptPartRows = 512;

struct Part {
  const PackedWeight* weight = nullptr;
  int64_t panels = 0;
  int64_t first = 0;    // parts of one row chunk before this output's
  PromptWeight prompt;  // LinearPlan::prompt and a quantised weight only
};

struct LinearPlan {
  int64_t rows = 0;
  bool thin = false;  // few rows: one tile a panel, and neighbouring panels go in one call
  int64_t part_rows = 0;
  int panel_tiles = 0;
  int64_t panels = 0;  // of all outputs
  std::array<Part, kMaxOutputs> parts;
  bool any_quantized = false;
  bool any_plain = false;
  // Every row is quantised twice: itself, and what that left. Both are multiplied in one pass over
  // the weights and added, so that activations count with 16 bits.
  bool precise = false;
  bool prompt = false;  // quantised weights go through gemm_prompt
  // Two outputs, prompt rows: a panel is a tile of either, and only out of the second is written.
  bool swiglu = false;
  int64_t quantized_copies() const { return precise ? 2 : 1; }
  // Of one quantised row.
  int64_t scales(int64_t cols) const { return prompt ? PromptSpans(cols) : cols / kGroup; }
};

// Rows of a part: every thread has the rows it has transformed, all panels of them, unless there
// are too few rows to share; then the panels are shared.
int64_t PromptPartRows(int64_t rows, int threads) {
  constexpr int64_t kFewest = 64;
  if (rows < kFewest * threads) return std::min(rows, kPromptPartRows);
  const int64_t chunks = (rows + kPromptPartRows * threads - 1) / (kPromptPartRows * threads);
  return (rows + chunks * threads - 1) / (chunks * threads);
}

// Whether quantised weights go through gemm_prompt.
bool GoesThroughPromptGemm(const CpuContext& context, const LinearInput& input) {
  return input.prompt_rows && context.kernels->gemm_prompt != nullptr &&
         input.x.cols % kPromptBlock == 0;
}

LinearPlan MakePlan(const CpuContext& context, const LinearInput& input,
                    absl::Span<const LinearOutput> outputs, bool swiglu) {
  LinearPlan plan;
  plan.rows = input.x.rows;
  plan.swiglu = swiglu;
  for (const LinearOutput& output : outputs) {
    plan.any_quantized |= static_cast<const PackedWeight*>(output.weight)->quantized();
    plan.precise |= output.precise;
  }
  plan.precise &= plan.any_quantized;
  plan.prompt = GoesThroughPromptGemm(context, input) && plan.any_quantized && !plan.precise;
  plan.thin = plan.rows <= kThinRows && !plan.prompt;
  plan.part_rows = plan.thin ? plan.rows : kPartRows;
  plan.panel_tiles = plan.thin || swiglu ? 1 : plan.prompt ? kPromptTiles : kMaxPanelTiles;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto* weight = static_cast<const PackedWeight*>(outputs[i].weight);
    SLIM_CHECK(weight->inputs() == input.x.cols && outputs[i].out.cols == weight->outputs() &&
               outputs[i].out.rows == plan.rows);
    SLIM_CHECK(outputs[i].bias == nullptr ||
               outputs[i].bias->bytes() >= weight->outputs() * int64_t{sizeof(float)});
    const int64_t panels = (weight->num_tiles() + plan.panel_tiles - 1) / plan.panel_tiles;
    plan.parts[i] = {weight, panels, plan.panels, {}};
    if (!swiglu || i > 0) plan.panels += panels;
    plan.any_plain |= !weight->quantized();
  }
  if (plan.prompt) plan.part_rows = PromptPartRows(plan.rows, context.pool->num_threads());
  return plan;
}

// The weights' forms for prompt rows: those that are not kept are made, in scratch.
absl::Status PreparePromptForms(CpuContext& context, LinearPlan& plan, size_t num_outputs) {
  const absl::Span<Part> parts = absl::MakeSpan(plan.parts).subspan(0, num_outputs);
  const auto missing = [](const Part& part) {
    return part.weight->quantized() && part.weight->kept_prompt_form().bytes == nullptr;
  };
  int64_t bytes = 0;
  for (const Part& part : parts) {
    if (missing(part)) bytes += (part.weight->PromptBytes() + 63) / 64 * 64;
  }
  SLIM_ASSIGN_OR_RETURN(uint8_t * memory, context.prompt_weights.Get<uint8_t>(bytes));
  for (Part& part : parts) {
    const PackedWeight& weight = *part.weight;
    part.prompt = weight.kept_prompt_form();
    if (!missing(part)) continue;
    part.prompt = weight.PromptFormIn(memory);
    memory += (weight.PromptBytes() + 63) / 64 * 64;
    context.pool->ParallelFor(weight.num_tiles(), 2, [&](int64_t begin, int64_t end, int) {
      for (int64_t tile = begin; tile < end; ++tile) {
        weight.PackPromptTile(tile, part.prompt, *context.kernels);
      }
    });
  }
  return absl::OkStatus();
}

// The input as the products read it.
struct Activations {
  const float* plain = nullptr;  // [rows, cols]
  QuantizedRows quantized;
};

QuantizedRows RowOf(const QuantizedRows& rows, int64_t row, int64_t cols, int64_t scales) {
  if (rows.sums == nullptr) return {rows.values + row * cols, rows.scales + row * scales};
  return {rows.values + row * cols, rows.scales + row * scales, rows.scaled_sums + row * scales,
          rows.sums + row * scales};
}

absl::StatusOr<Activations> PrepareInput(CpuContext& context, const LinearInput& input,
                                         const LinearPlan& plan) {
  const int64_t rows = plan.rows, cols = input.x.cols, scales = plan.scales(cols);
  Activations result;
  const bool transform = input.kind != LinearInput::Kind::kPlain;
  float* plain = nullptr;
  if (!transform) {
    result.plain = input.x.f32();
  } else if (plan.any_plain) {
    SLIM_ASSIGN_OR_RETURN(plain, context.transformed.Get<float>(rows * cols));
    result.plain = plain;
  }
  if (plan.any_quantized) {
    const int64_t copies = plan.quantized_copies() * rows;
    SLIM_ASSIGN_OR_RETURN(result.quantized.values, context.quantized.Get<int8_t>(copies * cols));
    SLIM_ASSIGN_OR_RETURN(result.quantized.scales, context.scales.Get<float>(copies * scales));
    if (!plan.prompt) {
      SLIM_ASSIGN_OR_RETURN(result.quantized.scaled_sums,
                            context.scaled_sums.Get<float>(copies * scales));
      SLIM_ASSIGN_OR_RETURN(result.quantized.sums, context.sums.Get<int32_t>(copies * scales));
    }
  } else if (!transform) {
    return result;
  }
  const int64_t padded_cols = (cols + 15) / 16 * 16;
  SLIM_ASSIGN_OR_RETURN(
      float* const thread_rows,
      context.transformed_threads.Get<float>(context.pool->num_threads() * 2 * padded_cols));
  // A few rows are done sooner than another thread could join in.
  const int64_t grain = std::max<int64_t>(1, kTransformElements / cols);
  context.pool->ParallelFor(rows, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = input.x.f32() + r * cols;
      if (transform) {
        RowTransform t;
        t.kind = input.kind == LinearInput::Kind::kRmsNorm ? RowTransform::Kind::kRmsNorm
                                                           : RowTransform::Kind::kSwiGlu;
        t.x = row;
        if (t.kind == RowTransform::Kind::kSwiGlu) t.up = input.up.f32() + r * cols;
        if (t.kind == RowTransform::Kind::kRmsNorm) {
          t.norm_weight = static_cast<const float*>(input.norm_weight->data());
        }
        t.eps = input.eps;
        t.cols = cols;
        float* to = plain != nullptr ? plain + r * cols : thread_rows + 2 * thread * padded_cols;
        context.kernels->transform_row(t, to);
        row = to;
      }
      if (plan.any_quantized) {
        const QuantizedRows first =
            RowOf(result.quantized, r * plan.quantized_copies(), cols, scales);
        if (plan.prompt) {
          context.kernels->quantize_prompt_row(row, cols, reinterpret_cast<uint8_t*>(first.values),
                                               first.scales);
          continue;
        }
        context.kernels->quantize_row(row, cols, first);
        if (!plan.precise) continue;
        float* rest = thread_rows + (2 * thread + 1) * padded_cols;
        for (int64_t i = 0; i < cols; ++i) {
          rest[i] = row[i] - first.scales[i / kGroup] * static_cast<float>(first.values[i]);
        }
        context.kernels->quantize_row(rest, cols, RowOf(result.quantized, r * 2 + 1, cols, scales));
      }
    }
  });
  return result;
}

// One thread's memory.
struct PartScratch {
  void* gemm = nullptr;
  float* pairs = nullptr;  // [2 kPartRows, kPanelOutputs]
};

// The products of args.rows pairs of quantised rows, each pair added up.
void PreciseGemm(const CpuContext& context, const GemmArgs& args, float* pairs) {
  GemmArgs both = args;
  both.rows = 2 * args.rows;
  both.bias = nullptr;
  both.accumulate = false;
  both.out = pairs;
  both.out_stride = kPanelOutputs;
  context.kernels->gemm(both);
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* first = pairs + 2 * r * kPanelOutputs;
    float* out = args.out + r * args.out_stride;
    for (int c = 0; c < args.columns; ++c) {
      float value = first[c] + first[c + kPanelOutputs];
      if (args.bias != nullptr) value += args.bias[c];
      out[c] = args.accumulate ? out[c] + value : value;
    }
  }
}

// Part `index` (rows outside, panels inside), or several from there on, but not `end`. Returns how
// many.
int64_t RunParts(const CpuContext& context, const LinearPlan& plan, const Activations& x,
                 absl::Span<const LinearOutput> outputs, int64_t index, int64_t end,
                 const PartScratch& scratch) {
  const int64_t row = index / plan.panels * plan.part_rows;
  const int64_t panel = index % plan.panels;
  size_t i = outputs.size() - 1;
  while (plan.parts[i].first > panel) --i;
  const PackedWeight& weight = *plan.parts[i].weight;
  const LinearOutput& output = outputs[i];
  const int64_t tile = (panel - plan.parts[i].first) * plan.panel_tiles;
  const int64_t panels = plan.thin && !plan.precise ? end - index : 1;
  const int64_t tiles = std::min(panels * plan.panel_tiles, weight.num_tiles() - tile);
  const int64_t done = (tiles + plan.panel_tiles - 1) / plan.panel_tiles;
  GemmArgs args;
  weight.Describe(tile, static_cast<int>(tiles), &args);
  args.rows = std::min(plan.part_rows, plan.rows - row);
  if (output.bias != nullptr) {
    args.bias = static_cast<const float*>(output.bias->data()) + tile * kTileOutputs;
  }
  args.accumulate = output.accumulate;
  args.out_stride = output.out.cols;
  args.out = output.out.f32() + row * args.out_stride + tile * kTileOutputs;
  args.scratch = scratch.gemm;
  if (!weight.quantized()) {
    args.x = x.plain + row * args.inputs;
    context.kernels->gemm(args);
    return done;
  }
  const QuantizedRows rows = RowOf(x.quantized, row * plan.quantized_copies(), weight.inputs(),
                                   plan.scales(weight.inputs()));
  args.x_values = rows.values;
  args.x_scales = rows.scales;
  args.x_scaled_sums = rows.scaled_sums;
  args.x_sums = rows.sums;
  if (plan.prompt) {
    for (int t = 0; t < args.tiles; ++t) {
      args.prompt[t] = PromptFormFrom(plan.parts[i].prompt, tile + t, args.inputs);
    }
    if (plan.swiglu) {
      args.swiglu = true;
      args.tiles = 2;
      args.prompt[1] = args.prompt[0];
      args.prompt[0] = PromptFormFrom(plan.parts[0].prompt, tile, args.inputs);
    }
    context.kernels->gemm_prompt(args);
  } else if (plan.precise) {
    PreciseGemm(context, args, scratch.pairs);
  } else {
    context.kernels->gemm(args);
  }
  return done;
}

absl::Status RunLinear(CpuContext& context, const LinearInput& input,
                       absl::Span<const LinearOutput> outputs, bool swiglu) {
  SLIM_CHECK(outputs.size() <= kMaxOutputs);
  if (outputs.empty() || input.x.rows == 0) return absl::OkStatus();
  if (input.kind == LinearInput::Kind::kSwiGlu) {
    SLIM_CHECK(input.up.rows == input.x.rows && input.up.cols == input.x.cols);
  }
  if (input.kind == LinearInput::Kind::kRmsNorm) {
    SLIM_CHECK(input.norm_weight != nullptr &&
               input.norm_weight->bytes() >= input.x.cols * int64_t{sizeof(float)});
  }
  LinearPlan plan = MakePlan(context, input, outputs, swiglu);
  if (plan.prompt) SLIM_RETURN_IF_ERROR(PreparePromptForms(context, plan, outputs.size()));
  SLIM_ASSIGN_OR_RETURN(const Activations x, PrepareInput(context, input, plan));
  const int threads = context.pool->num_threads();
  const int64_t gemm_bytes = (GemmScratchBytes(input.x.cols) + 63) / 64 * 64;
  SLIM_ASSIGN_OR_RETURN(uint8_t* const gemm_scratch,
                        context.gemm_threads.Get<uint8_t>(gemm_bytes * threads));
  const int64_t pair_floats = plan.precise ? 2 * kPartRows * kPanelOutputs : 0;
  SLIM_ASSIGN_OR_RETURN(float* const pairs,
                        context.pairs_threads.Get<float>(pair_floats * threads));
  const int64_t parts = (plan.rows + plan.part_rows - 1) / plan.part_rows * plan.panels;
  const int64_t grain = plan.thin ? std::clamp<int64_t>(parts / (threads * 2), 1, 64) : 1;
  context.pool->ParallelFor(parts, grain, [&](int64_t begin, int64_t end, int thread) {
    const PartScratch scratch = {gemm_scratch + thread * gemm_bytes, pairs + thread * pair_floats};
    for (int64_t part = begin; part < end;) {
      part += RunParts(context, plan, x, outputs, part, end, scratch);
    }
  });
  return absl::OkStatus();
}

}  // namespace

absl::Status CpuLinear(CpuContext& context, const LinearInput& input,
                       absl::Span<const LinearOutput> outputs) {
  return RunLinear(context, input, outputs, /*swiglu=*/false);
}

bool FusesSwiGlu(const CpuContext& context, const FeedForwardArgs& args) {
  const auto quantized = [](const LinearWeight* weight) {
    return static_cast<const PackedWeight*>(weight)->quantized();
  };
  return GoesThroughPromptGemm(context, args.input) && quantized(args.gate) && quantized(args.up);
}

absl::Status CpuFeedForward(CpuContext& context, const FeedForwardArgs& args) {
  SLIM_CHECK(args.gate->outputs() == args.up->outputs());
  SLIM_RETURN_IF_ERROR(RunLinear(context, args.input,
                                 {LinearOutput{args.gate, args.gate_rows, false, nullptr},
                                  LinearOutput{args.up, args.up_rows, false, nullptr}},
                                 /*swiglu=*/true));
  LinearInput activated;
  activated.x = args.up_rows;
  activated.prompt_rows = true;
  return CpuLinear(context, activated, {LinearOutput{args.down, args.out, true, nullptr}});
}

absl::Status CpuEmbed(CpuContext& context, const LinearWeight& embedding,
                      absl::Span<const int32_t> tokens, TensorView out) {
  const auto& weight = static_cast<const PackedWeight&>(embedding);
  SLIM_CHECK(out.cols == weight.inputs() && out.rows == static_cast<int64_t>(tokens.size()));
  context.pool->ParallelFor(out.rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      SLIM_CHECK(tokens[r] >= 0 && tokens[r] < weight.outputs());
      weight.Dequantize(tokens[r], out.f32() + r * out.cols);
    }
  });
  return absl::OkStatus();
}

}  // namespace slim
