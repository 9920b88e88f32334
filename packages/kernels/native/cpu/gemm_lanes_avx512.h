// AVX-512 lanes (F, BW, VL, DQ): a vector is a whole tile. See gemm_lanes_generic.h for what each operation means.
//
// A lane's nibble J becomes a float in two instructions, one a port: `vpsrld` brings it to bits 0-3 and `vpermps` looks
// it up in a table of 16 floats held in a register (vpermps reads only the low 4 bits of an index, so nothing has to be
// masked). Tables hold code (int4), and radix·hi and lo (nested), so that the sum of the two look-ups is the exact
// code.
#pragma once
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics start from an undefined register on purpose and its optimiser warns about that in every
// caller.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <cstdint>

#include "qspec/formats.h"

namespace qspec::cpu {
namespace {

struct Avx512Lanes {
  static constexpr int kWidth = 16;
  static constexpr int kLargestRowBlock = 8;
  static constexpr int kSlabRows = 8,
                       kSlabStrips = 3;  // rows x strips of a block that reads decoded weights (gemm_slab.h)
  static constexpr bool kWideCodes = false;
  // At least 8 chains, at most 16 sums: half of the 32 registers.
  static constexpr int strips(int rows) { return rows <= 4 ? 4 : rows <= 8 ? 2 : 1; }

  using F = __m512;
  using I = __m512i;

  static F zero() { return _mm512_setzero_ps(); }
  static F broadcast(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F load_bf16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }

  static I load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static I broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  template <int J>
  static F bf16_of_pair(I pair) {
    return _mm512_castsi512_ps(J == 0 ? _mm512_slli_epi32(pair, 16)
                                      : _mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  // multiplier · (nibble - 8), indexed by nibble.
  static F code_table(int multiplier) {
    const __m512i nibbles = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cvtepi32_ps(
        _mm512_mullo_epi32(_mm512_sub_epi32(nibbles, _mm512_set1_epi32(8)), _mm512_set1_epi32(multiplier)));
  }
  template <int J>
  static F look_up(F table, I words) {
    return _mm512_permutexvar_ps(nibble_shift(J) == 0 ? words : _mm512_srli_epi32(words, nibble_shift(J)), table);
  }

  struct Int4Decoder {
    explicit Int4Decoder(int /*radix*/) : table(code_table(1)) {}
    using Words = I;
    Words load(const uint32_t* hi, const uint32_t* /*lo*/) const { return load_words(hi); }
    template <int J>
    F at(const Words& w) const {
      return look_up<J>(table, w);
    }
    F table;
  };
  struct NestedDecoder {
    explicit NestedDecoder(int radix) : hi_table(code_table(radix)), lo_table(code_table(1)) {}
    struct Words {
      I hi, lo;
    };
    Words load(const uint32_t* hi, const uint32_t* lo) const { return {load_words(hi), load_words(lo)}; }
    template <int J>
    F at(const Words& w) const {
      return add(look_up<J>(hi_table, w.hi), look_up<J>(lo_table, w.lo));
    }
    F hi_table, lo_table;
  };

  struct Codes {
    I low, high;
  };
  static Codes split_nibbles(I words) {
    const I mask = _mm512_set1_epi32(0x0f0f0f0f);
    return {_mm512_and_si512(words, mask), _mm512_and_si512(_mm512_srli_epi32(words, 4), mask)};
  }

  // Without VNNI: vpmaddubsw sums pairs of products in 16 bits. A partial takes 8 of them (32 elements of K), at most
  // 8 · 2 · 15 · 127 = 30480, and is widened once, by a multiply-add that also applies the plane's multiplier.
  using Partial = I;
  static Partial start(I /*sums*/) { return _mm512_setzero_si512(); }
  static Partial dot(Partial partial, I codes, int32_t four_activations) {
    return _mm512_add_epi16(partial, _mm512_maddubs_epi16(codes, _mm512_set1_epi32(four_activations)));
  }
  static I finish(I sums, Partial partial, int multiplier) {
    return _mm512_add_epi32(sums, _mm512_madd_epi16(partial, _mm512_set1_epi16(static_cast<short>(multiplier))));
  }
};

}  // namespace
}  // namespace qspec::cpu
