// AVX2 + FMA lanes: a vector is half a tile. See gemm_lanes_generic.h for what each operation means.
//
// There is no 16-entry look-up of floats, so a nibble is shifted, masked and converted. Nested codes are put together
// first, four at once: bytes of radix·hi + lo never carry (at most 240), so one 16-bit multiply and one addition make
// the codes of four k.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "qspec/formats.h"

namespace qspec::cpu {
namespace {

struct Avx2Lanes {
  static constexpr int kWidth = 8;
  static constexpr int kLargestRowBlock = 6;
  static constexpr int kSlabRows = 6,
                       kSlabStrips = 2;  // rows x strips of a block that reads decoded weights (gemm_slab.h)
  static constexpr bool kWideCodes = false;
  // At least 8 sums of the 16 registers where the rows allow it.
  static constexpr int strips(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : rows <= 3 ? 2 : 1; }

  using F = __m256;
  using I = __m256i;

  static F zero() { return _mm256_setzero_ps(); }
  static F broadcast(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static F load_bf16(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }

  static I load_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I broadcast_int(int32_t x) { return _mm256_set1_epi32(x); }
  static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
  static I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  template <int J>
  static F bf16_of_pair(I pair) {
    return _mm256_castsi256_ps(J == 0 ? _mm256_slli_epi32(pair, 16)
                                      : _mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  struct Codes {
    I low, high;
  };
  static Codes split_nibbles(I words) {
    const I mask = _mm256_set1_epi32(0x0f0f0f0f);
    return {_mm256_and_si256(words, mask), _mm256_and_si256(_mm256_srli_epi32(words, 4), mask)};
  }

  struct Int4Decoder {
    explicit Int4Decoder(int /*radix*/) {}
    using Words = I;
    Words load(const uint32_t* hi, const uint32_t* /*lo*/) const { return load_words(hi); }
    template <int J>
    F at(const Words& w) const {
      constexpr int kShift = nibble_shift(J);
      const I shifted = kShift == 0 ? w : _mm256_srli_epi32(w, kShift);
      const I nibble = kShift == 28 ? shifted : _mm256_and_si256(shifted, _mm256_set1_epi32(15));
      return _mm256_sub_ps(_mm256_cvtepi32_ps(nibble), _mm256_set1_ps(8));
    }
  };
  struct NestedDecoder {
    explicit NestedDecoder(int radix)
        : multiplier(_mm256_set1_epi16(static_cast<short>(radix))),
          zero(_mm256_set1_ps(static_cast<float>(8 * (radix + 1)))) {}
    using Words = Codes;  // bytes of radix·hi + lo
    Words load(const uint32_t* hi, const uint32_t* lo) const {
      const Codes high = split_nibbles(load_words(hi)), low = split_nibbles(load_words(lo));
      return {_mm256_add_epi32(_mm256_mullo_epi16(high.low, multiplier), low.low),
              _mm256_add_epi32(_mm256_mullo_epi16(high.high, multiplier), low.high)};
    }
    template <int J>
    F at(const Words& w) const {
      const I bytes = J < 4 ? w.low : w.high;
      const I shifted = J % 4 == 0 ? bytes : _mm256_srli_epi32(bytes, J % 4 * 8);
      const I code = J % 4 == 3 ? shifted : _mm256_and_si256(shifted, _mm256_set1_epi32(255));
      return _mm256_sub_ps(_mm256_cvtepi32_ps(code), zero);
    }
    I multiplier;
    F zero;
  };

  // As in gemm_lanes_avx512.h: 16-bit partial sums of 32 elements of K, at most 8 · 2 · 15 · 127 = 30480.
  using Partial = I;
  static Partial start(I /*sums*/) { return _mm256_setzero_si256(); }
  static Partial dot(Partial partial, I codes, int32_t four_activations) {
    return _mm256_add_epi16(partial, _mm256_maddubs_epi16(codes, _mm256_set1_epi32(four_activations)));
  }
  static I finish(I sums, Partial partial, int multiplier) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(partial, _mm256_set1_epi16(static_cast<short>(multiplier))));
  }
};

}  // namespace
}  // namespace qspec::cpu
