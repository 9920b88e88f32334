// Sixteen float lanes: AVX-512 F, BW, DQ, VL. Names as in simd_generic.h.
#pragma once
// GCC 12 believes that the header's own _mm512_undefined_ps() is a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#define QSPEC_ISA avx512

namespace qspec::cpu::avx512 {

constexpr int kLanes = 16;
constexpr int kQueryTile = 6;

using F = __m512;
using I = __m512i;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }
inline F splat(float a) { return _mm512_set1_ps(a); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F flip_sign(F a, I mask) {
  return _mm512_xor_ps(a, _mm512_castsi512_ps(_mm512_and_si512(mask, _mm512_set1_epi32(INT32_MIN))));
}
inline F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I to_int(F a) { return _mm512_cvtps_epi32(a); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline I load_i(const void* p) { return _mm512_loadu_si512(p); }
inline I lane_index() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline I load_i_first(const void* p, int count) {
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_i(void* p, I a) { _mm512_storeu_si512(p, a); }
inline I splat_i(int32_t a) { return _mm512_set1_epi32(a); }
inline I add_i(I a, I b) { return _mm512_add_epi32(a, b); }
inline I sub_i(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I and_i(I a, I b) { return _mm512_and_si512(a, b); }
inline I xor_i(I a, I b) { return _mm512_xor_si512(a, b); }
inline I max_i(I a, I b) { return _mm512_max_epi32(a, b); }
template <int kBits>
I shift_left(I a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
I shift_right(I a) {
  return _mm512_srai_epi32(a, kBits);
}
template <int kBits>
I shift_right_zero(I a) {
  return _mm512_srli_epi32(a, kBits);
}
inline F as_float(I a) { return _mm512_castsi512_ps(a); }
inline I as_int(F a) { return _mm512_castps_si512(a); }
inline F select(F a, F b, I mask) { return _mm512_mask_blend_ps(_mm512_movepi32_mask(mask), a, b); }
inline F if_less(F x, F y, F a, F b) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a); }
inline I less_i(I a, I b) { return _mm512_movm_epi32(_mm512_cmplt_epi32_mask(a, b)); }
inline void mul_wide(I a, uint32_t b, I& low, I& high) {
  const I factor = _mm512_set1_epi32(static_cast<int>(b));
  const I even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
inline uint32_t at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
template <int kDistance>
F swap(F a) {
  if constexpr (kDistance == 1) return _mm512_permute_ps(a, 0xb1);
  if constexpr (kDistance == 2) return _mm512_permute_ps(a, 0x4e);
  if constexpr (kDistance == 4) return _mm512_shuffle_f32x4(a, a, 0xb1);
  return _mm512_shuffle_f32x4(a, a, 0x4e);
}
inline void store_halves(uint16_t* p, I a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
}
inline void store_bytes(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }
inline F load_bf16(const uint16_t* p) {
  return as_float(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
inline F load_int8(const int8_t* p) {
  return to_float(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void transpose(I (&r)[kLanes]) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
    }
  }
  // b[4g + c] holds, in its 128-bit quarter q, column 4q + c of rows 4g … 4g + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88),
                  high = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
    const __m512i low_odd = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
    const __m512i high_odd = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
    r[c] = _mm512_shuffle_i32x4(low, high, 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(low, high, 0xdd);
    r[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
    r[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
  }
}

}  // namespace qspec::cpu::avx512

#include "simd_common.inl"
