// Compiled for AVX-512, so apart from the test: nothing here may include what other files use too.
#include "tests/engine/backend/emulated_amx.h"

#include <immintrin.h>

namespace slim {
namespace {

// Intel's manual, TDPBUSD and its relatives: a tile has `rows` rows of `row_bytes` bytes.
struct Tile {
  int rows = 0, row_bytes = 0;
  unsigned char bytes[16][64] = {};
};
Tile tiles[8];
const char* fault = nullptr;

void Refuse(bool wrong, const char* what) {
  if (wrong && fault == nullptr) fault = what;
}

template <typename Config>
void Configure(const Config& config) {
  static_assert(sizeof(Config) == 64);
  Refuse(config.palette != 1 || config.start_row != 0, "palette or start row");
  for (int t = 0; t < 16; ++t) {
    const int rows = config.rows[t], row_bytes = config.row_bytes[t];
    Refuse(rows > 16 || row_bytes > 64 || (rows == 0) != (row_bytes == 0), "tile shape");
    Refuse(t >= 8 && rows != 0, "tile that is not there");
    if (t < 8) tiles[t] = {rows, row_bytes};
  }
}

Tile& Configured(int t) {
  Refuse(tiles[t].rows == 0, "tile without configuration");
  return tiles[t];
}

void Clear(int t) {
  for (auto& row : Configured(t).bytes) __builtin_memset(row, 0, sizeof(row));
}

void LoadTile(int t, const void* from, int64_t stride) {
  Clear(t);
  Tile& tile = tiles[t];
  for (int r = 0; r < tile.rows; ++r) {
    __builtin_memcpy(tile.bytes[r], static_cast<const char*>(from) + r * stride, tile.row_bytes);
  }
}

void StoreTile(int t, void* to, int64_t stride) {
  const Tile& tile = Configured(t);
  for (int r = 0; r < tile.rows; ++r) {
    __builtin_memcpy(static_cast<char*>(to) + r * stride, tile.bytes[r], tile.row_bytes);
  }
}

// sums[m][n] += inputs[m][4 k + j] (unsigned) * weights[k][4 n + j] (signed)
void Dot(int sums_tile, int inputs_tile, int weights_tile) {
  Tile& sums = Configured(sums_tile);
  const Tile &inputs = Configured(inputs_tile), &weights = Configured(weights_tile);
  Refuse(sums.rows != inputs.rows || sums.row_bytes != weights.row_bytes ||
             inputs.row_bytes != 4 * weights.rows,
         "shapes that do not fit");
  if (fault != nullptr) return;
  for (int m = 0; m < sums.rows; ++m) {
    for (int n = 0; n < sums.row_bytes / 4; ++n) {
      uint32_t sum;
      __builtin_memcpy(&sum, &sums.bytes[m][4 * n], 4);
      for (int k = 0; k < weights.rows; ++k) {
        for (int j = 0; j < 4; ++j) {
          sum += static_cast<uint32_t>(inputs.bytes[m][4 * k + j] *
                                       static_cast<signed char>(weights.bytes[k][4 * n + j]));
        }
      }
      __builtin_memcpy(&sums.bytes[m][4 * n], &sum, 4);
    }
  }
}

#define SLIM_TILE_CONFIGURE(config) Configure(config)
#define SLIM_TILE_RELEASE() Configure(AmxConfig())
#define SLIM_TILE_ZERO(t) Clear(t)
#define SLIM_TILE_LOAD(t, from, stride) LoadTile(t, from, stride)
#define SLIM_TILE_STORE(t, to, stride) StoreTile(t, to, stride)
#define SLIM_TILE_DOT(sums, inputs, weights) Dot(sums, inputs, weights)

// clang-format off
#include "engine/backend/cpu/simd_avx512.inc"
#include "engine/backend/cpu/kernels_rows.inc"
#include "engine/backend/cpu/kernels_finish.inc"
#include "engine/backend/cpu/gemm_prompt_amx.inc"
// clang-format on

}  // namespace

const char* GemmPromptEmulatedAmx(const GemmArgs& args) {
  fault = nullptr;
  GemmPromptTiles(args);
  return fault;
}

}  // namespace slim
