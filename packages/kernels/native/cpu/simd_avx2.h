// Eight float lanes: AVX2, FMA. Names as in simd_generic.h.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define QSPEC_ISA avx2

namespace qspec::cpu::avx2 {

constexpr int kLanes = 8;
constexpr int kQueryTile = 3;

using F = __m256;
using I = __m256i;

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F a) { _mm256_storeu_ps(p, a); }
inline F splat(float a) { return _mm256_set1_ps(a); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F flip_sign(F a, I mask) {
  return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_and_si256(mask, _mm256_set1_epi32(INT32_MIN))));
}
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I to_int(F a) { return _mm256_cvtps_epi32(a); }
inline F to_float(I a) { return _mm256_cvtepi32_ps(a); }
inline I load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline I lane_index() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
inline I load_i_first(const void* p, int count) {
  return _mm256_maskload_epi32(static_cast<const int*>(p), _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane_index()));
}
inline void store_i(void* p, I a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline I splat_i(int32_t a) { return _mm256_set1_epi32(a); }
inline I add_i(I a, I b) { return _mm256_add_epi32(a, b); }
inline I sub_i(I a, I b) { return _mm256_sub_epi32(a, b); }
inline I and_i(I a, I b) { return _mm256_and_si256(a, b); }
inline I xor_i(I a, I b) { return _mm256_xor_si256(a, b); }
inline I max_i(I a, I b) { return _mm256_max_epi32(a, b); }
template <int kBits>
I shift_left(I a) {
  return _mm256_slli_epi32(a, kBits);
}
template <int kBits>
I shift_right(I a) {
  return _mm256_srai_epi32(a, kBits);
}
template <int kBits>
I shift_right_zero(I a) {
  return _mm256_srli_epi32(a, kBits);
}
inline F as_float(I a) { return _mm256_castsi256_ps(a); }
inline I as_int(F a) { return _mm256_castps_si256(a); }
inline F select(F a, F b, I mask) { return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(mask)); }
inline F if_less(F x, F y, F a, F b) { return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ)); }
inline I less_i(I a, I b) { return _mm256_cmpgt_epi32(b, a); }
inline void mul_wide(I a, uint32_t b, I& low, I& high) {
  const I factor = _mm256_set1_epi32(static_cast<int>(b));
  const I even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
inline uint32_t at_least(F a, F b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
template <int kDistance>
F swap(F a) {
  if constexpr (kDistance == 1) return _mm256_permute_ps(a, 0xb1);
  if constexpr (kDistance == 2) return _mm256_permute_ps(a, 0x4e);
  return _mm256_permute2f128_ps(a, a, 1);
}
inline __m128i pack_halves(I a) {  // the low 16 bits of each lane
  const __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_packus_epi32(low, low);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
inline void store_halves(uint16_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), pack_halves(a)); }
inline void store_bytes(int8_t* p, I a) {
  const __m128i halves = pack_halves(a);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
}
inline F load_bf16(const uint16_t* p) {
  return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
inline F load_int8(const int8_t* p) {
  return to_float(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline void transpose(I (&r)[kLanes]) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    a[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + j + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
    r[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
  }
}

}  // namespace qspec::cpu::avx2

#include "simd_common.inl"
