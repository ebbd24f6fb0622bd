// Block scores, defined to the last bit so that every instruction set and every device can compute
// the same numbers. All operations are float32, each rounded to nearest; no fused multiply-add.
//
// dot(a, b)      sum from 0 over d ascending of a[d] * b[d], one addition each
// window_attention, for each head h and window query w:
//   s[t]   = dot(q, k[t]) * (1 / sqrt(head_dim)) for the visible tokens t: position <= position of
//            w and < num_tokens
//   m      = max s[t];  e[t] = E(s[t] - m)
//   l      = sixteen partial sums, e[t] added to number slot(t) % 16, blocks ascending, slots
//            ascending; then the sixteen added ascending
//   score of a block = max over h, w of (max over its visible t of e[t]) / l; 0 where nothing is
//            visible
//   E(x)   y = max(x * log2(e), -120), n = y rounded to the nearest integer (ties to even), f = y -
//            n, p = the polynomial of degree 6 in f by Horner's rule (coefficients in
//            kernels_attention.inc), E = p * 2^n
// units (8 slots of a block, existing tokens only):
//   krep   = (sum over tokens ascending) / count, per channel; kMaxPool: the largest of the block
//   qbar   = (sum over window rows ascending) / rows
//   unit   = (sum over heads ascending of |dot(qbar[h], krep[h / g])|) / heads; kUnitSigned:
//   without
//            the absolute value
//   score  = max over units; kMeanPool: (sum over units ascending) / units
// A maximum that meets a NaN is NaN.
//
// Keys in bytes (KvType::kInt8): k[t] is the rotated key in whole numbers, q and qbar are rotated
// likewise (kvcache/int8_kv.h, n channels together), dot(q, k[t]) is multiplied with the token's
// scale, and 1 / sqrt(head_dim) divided by n; krep is of scaled rotated keys, qbar divided by n.
// kMaxPool undoes the rotation of the keys and rotates nothing else.
#ifndef ENGINE_BACKEND_CPU_SCORE_BLOCKS_H_
#define ENGINE_BACKEND_CPU_SCORE_BLOCKS_H_

namespace slim {

inline constexpr int kScoreUnitTokens = 8;
inline constexpr int kScoreLanes = 16;

// The larger of both; NaN if either is.
inline float MaxOrNan(float a, float b) { return b > a || b != b ? b : a; }

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_SCORE_BLOCKS_H_
