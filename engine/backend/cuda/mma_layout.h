// Which element lies where in the attention kernels: the index arithmetic alone, so that a host
// test can play a warp and check it. Pure functions, host and device.
//
// The instruction m16n8k16 multiplies A [16, 16] by B [16, 8]. In lane `lane` with row(lane) =
// lane / 4 and col(lane) = lane % 4:
//   A register j holds A[row + 8 (j % 2)][2 col + 8 (j / 2) + {0, 1}]
//   B register j holds B[2 col + 8 j + {0, 1}][row]
//   C register j holds C[row + 8 (j / 2)][2 col + j % 2]
// KvLayout stores neighbouring pairs of what a product sums over in one 32-bit word (channels of
// keys, tokens of values), so one word is one B register. A lane reads four neighbouring words at a
// time, which belong to four B tiles: tile i of a group of 32 takes column 4 n + i for its column
// n. So a score tile's columns are tokens in that order, and after the softmax each lane holds
// pairs of neighbouring tokens: exactly what the A registers of the second product want, in an
// order of the summation index that the value rows below follow.
#ifndef ENGINE_BACKEND_CUDA_MMA_LAYOUT_H_
#define ENGINE_BACKEND_CUDA_MMA_LAYOUT_H_

#include "engine/backend/cuda/host_device.h"

namespace slim::cuda {

SLIM_HOST_DEVICE constexpr int LaneRow(int lane) { return lane / 4; }
SLIM_HOST_DEVICE constexpr int LaneCol(int lane) { return lane % 4; }

// First product, scores = Q K^T. Step k covers channels [16 k, 16 k + 16). Word (pair of channels)
// that A register j reads of its query row, and that B register j reads as key row.
SLIM_HOST_DEVICE constexpr int QueryWord(int step, int lane, int a_register) {
  return step * 8 + LaneCol(lane) + 4 * (a_register / 2);
}
SLIM_HOST_DEVICE constexpr int QueryRow(int lane, int a_register) {
  return LaneRow(lane) + 8 * (a_register % 2);
}
SLIM_HOST_DEVICE constexpr int KeyRow(int step, int lane, int b_register) {
  return step * 8 + LaneCol(lane) + 4 * b_register;
}
// First of the four neighbouring columns (tokens of a group of 32, or channels of a group of 32)
// that a lane reads at once; number i belongs to tile i.
SLIM_HOST_DEVICE constexpr int FirstColumn(int lane) { return 4 * LaneRow(lane); }

// Token (within its group of 32) and row (of the 16) of score register j of tile i.
SLIM_HOST_DEVICE constexpr int ScoreToken(int tile, int lane, int c_register) {
  return 4 * (2 * LaneCol(lane) + c_register % 2) + tile;
}
SLIM_HOST_DEVICE constexpr int ScoreRow(int lane, int c_register) {
  return LaneRow(lane) + 8 * (c_register / 2);
}

// Second product, output = P V, two steps per group of 32 tokens. A register j of step e packs the
// C registers number WeightRegister(e, j) of tiles WeightTile(j) and WeightTile(j) + 1.
SLIM_HOST_DEVICE constexpr int WeightTile(int a_register) { return 2 * (a_register / 2); }
SLIM_HOST_DEVICE constexpr int WeightRegister(int step, int a_register) {
  return 2 * (a_register % 2) + step;
}
// Row of values (pair of tokens within the group) that B register j of step e reads.
SLIM_HOST_DEVICE constexpr int ValueRow(int step, int lane, int b_register) {
  return 4 * LaneCol(lane) + 2 * step + b_register;
}
// Channel (within its group of 32) of output register j of tile i: registers of a lane cover the
// eight channels [8 col, 8 col + 8).
SLIM_HOST_DEVICE constexpr int OutputChannel(int tile, int lane, int c_register) {
  return 4 * (2 * LaneCol(lane) + c_register % 2) + tile;
}

// Where the prefill kernel keeps value row r (of 16 in a group) in shared memory, so that the four
// columns of lanes meet in different banks.
SLIM_HOST_DEVICE constexpr int SharedValueRow(int row) { return (row % 4) * 4 + row / 4; }

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_MMA_LAYOUT_H_
