// Vector wrapper without intrinsics: eight lanes in an array, left to the compiler. Runs anywhere.
// Each simd_*.h defines the same names in its own namespace; row_ops.inl and attention.inl are compiled once for each.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define QSPEC_ISA generic

namespace qspec::cpu::generic {

constexpr int kLanes = 8;
constexpr int kQueryTile = 2;  // query vectors that share one pass over a block of keys

struct F {
  float lane[kLanes];
};
struct I {
  int32_t lane[kLanes];
};

#define QSPEC_LANES(type, expression)                             \
  type result;                                                    \
  for (int i = 0; i < kLanes; ++i) result.lane[i] = (expression); \
  return result

inline F load(const float* p) { QSPEC_LANES(F, p[i]); }
inline void store(float* p, F a) { std::memcpy(p, a.lane, sizeof a); }
inline F splat(float a) { QSPEC_LANES(F, a); }
inline F add(F a, F b) { QSPEC_LANES(F, a.lane[i] + b.lane[i]); }
inline F sub(F a, F b) { QSPEC_LANES(F, a.lane[i] - b.lane[i]); }
inline F mul(F a, F b) { QSPEC_LANES(F, a.lane[i] * b.lane[i]); }
inline F div(F a, F b) { QSPEC_LANES(F, a.lane[i] / b.lane[i]); }
inline F fma(F a, F b, F c) { QSPEC_LANES(F, a.lane[i] * b.lane[i] + c.lane[i]); }   // a·b + c
inline F fnma(F a, F b, F c) { QSPEC_LANES(F, c.lane[i] - a.lane[i] * b.lane[i]); }  // c - a·b
// The larger; b where either is NaN.
inline F max(F a, F b) { QSPEC_LANES(F, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
inline F min(F a, F b) { QSPEC_LANES(F, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
inline F flip_sign(F a, I mask) { QSPEC_LANES(F, mask.lane[i] ? -a.lane[i] : a.lane[i]); }
// To the nearest integer, ties to even.
inline F round(F a) { QSPEC_LANES(F, (a.lane[i] + 0x1.8p23f) - 0x1.8p23f); }  // |a| < 2^22
inline F to_float(I a) { QSPEC_LANES(F, static_cast<float>(a.lane[i])); }

inline I load_i(const void* p) {
  I result;
  std::memcpy(result.lane, p, sizeof result);
  return result;
}
// The first `count` lanes; the others are zero and their memory is not touched.
inline I load_i_first(const void* p, int count) {
  I result = {};
  std::memcpy(result.lane, p, count * sizeof(int32_t));
  return result;
}
inline void store_i(void* p, I a) { std::memcpy(p, a.lane, sizeof a); }
inline I splat_i(int32_t a) { QSPEC_LANES(I, a); }
inline I add_i(I a, I b) {
  QSPEC_LANES(I, static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) + static_cast<uint32_t>(b.lane[i])));
}
inline I sub_i(I a, I b) {
  QSPEC_LANES(I, static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) - static_cast<uint32_t>(b.lane[i])));
}
inline I and_i(I a, I b) { QSPEC_LANES(I, a.lane[i] & b.lane[i]); }
inline I xor_i(I a, I b) { QSPEC_LANES(I, a.lane[i] ^ b.lane[i]); }
inline I max_i(I a, I b) { QSPEC_LANES(I, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
template <int kBits>
I shift_left(I a) {
  QSPEC_LANES(I, static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) << kBits));
}
template <int kBits>
I shift_right(I a) {
  QSPEC_LANES(I, a.lane[i] >> kBits);
}  // arithmetic
template <int kBits>
I shift_right_zero(I a) {
  QSPEC_LANES(I, static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) >> kBits));
}
inline F as_float(I a) {
  F result;
  std::memcpy(&result, &a, sizeof a);
  return result;
}
inline I as_int(F a) {
  I result;
  std::memcpy(&result, &a, sizeof a);
  return result;
}
// To the nearest, ties to even; |a| < 2^22. The sum's low bits are the integer.
inline I to_int(F a) {
  const I bits = as_int(add(a, splat(0x1.8p23f)));
  return sub_i(bits, splat_i(0x4b400000));
}
// Lanes of b where mask is -1, of a where it is 0.
inline F select(F a, F b, I mask) { QSPEC_LANES(F, mask.lane[i] ? b.lane[i] : a.lane[i]); }
// x < y ? a : b
inline F if_less(F x, F y, F a, F b) { QSPEC_LANES(F, x.lane[i] < y.lane[i] ? a.lane[i] : b.lane[i]); }
inline I less_i(I a, I b) { QSPEC_LANES(I, a.lane[i] < b.lane[i] ? -1 : 0); }
inline I lane_index() { QSPEC_LANES(I, i); }
// 32 x 32 -> 64 bits, unsigned: the low and the high words.
inline void mul_wide(I a, uint32_t b, I& low, I& high) {
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(a.lane[i])) * b;
    low.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(product));
    high.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(product >> 32));
  }
}
// Bit i: a >= b in lane i (never where either is NaN).
inline uint32_t at_least(F a, F b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a.lane[i] >= b.lane[i]) << i;
  return mask;
}
// Lane i takes lane i XOR kDistance.
template <int kDistance>
F swap(F a) {
  QSPEC_LANES(F, a.lane[i ^ kDistance]);
}
// kLanes low bytes / halves of the lanes.
inline void store_bytes(int8_t* p, I a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.lane[i]);
}
inline void store_halves(uint16_t* p, I a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(a.lane[i]);
}
inline F load_bf16(const uint16_t* p) {
  I words;
  for (int i = 0; i < kLanes; ++i) words.lane[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16);
  return as_float(words);
}
inline F load_int8(const int8_t* p) { QSPEC_LANES(F, static_cast<float>(p[i])); }
inline void transpose(I (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const int32_t held = rows[i].lane[j];
      rows[i].lane[j] = rows[j].lane[i];
      rows[j].lane[i] = held;
    }
  }
}

#undef QSPEC_LANES

}  // namespace qspec::cpu::generic

#include "simd_common.inl"
