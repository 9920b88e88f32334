// Vector lanes in plain C++: the meaning of every operation that the kernels ask of an instruction set.
// gemm_lanes_avx2.h and gemm_lanes_avx512.h are the same words in intrinsics; every float operation rounds the same
// way, so results are equal bit for bit.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "qspec/dtype.h"
#include "qspec/formats.h"

namespace qspec::cpu {
namespace {

struct GenericLanes {
  static constexpr int kWidth = 16;           // lanes = rows of a tile handled by one vector
  static constexpr int kLargestRowBlock = 2;  // kernels exist for 1 … kLargestRowBlock rows
  static constexpr int kSlabRows = 2,
                       kSlabStrips = 1;     // rows x strips of a block that reads decoded weights (gemm_slab.h)
  static constexpr bool kWideCodes = true;  // dot() takes unsigned codes up to 255 (else up to 15)
  static constexpr int strips(int /*rows*/) { return 1; }  // vectors of output features side by side

  struct F {
    float lane[kWidth];
  };
  struct I {
    uint32_t lane[kWidth];
  };
  template <class Function>
  static F map(Function f) {
    F out;
    for (int i = 0; i < kWidth; ++i) out.lane[i] = f(i);
    return out;
  }
  template <class Function>
  static I map_int(Function f) {
    I out;
    for (int i = 0; i < kWidth; ++i) out.lane[i] = static_cast<uint32_t>(f(i));
    return out;
  }

  static F zero() { return broadcast(0.0f); }
  static F broadcast(float x) {
    return map([&](int) { return x; });
  }
  static F load(const float* p) {
    return map([&](int i) { return p[i]; });
  }
  static void store(float* p, F a) { std::memcpy(p, a.lane, sizeof a.lane); }
  static F load_bf16(const uint16_t* p) {
    return map([&](int i) { return bf16_to_float(p[i]); });
  }
  static F add(F a, F b) {
    return map([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F mul(F a, F b) {
    return map([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F div(F a, F b) {
    return map([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static F fma(F a, F b, F c) {
    return map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }

  static I load_words(const uint32_t* p) {
    return map_int([&](int i) { return p[i]; });
  }
  static I broadcast_int(int32_t x) {
    return map_int([&](int) { return x; });
  }
  static F to_float(I a) {
    return map([&](int i) { return static_cast<float>(static_cast<int32_t>(a.lane[i])); });
  }
  static I sub(I a, I b) {
    return map_int([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static void prefetch(const void*) {}

  // Bf16 pair of a lane: J = 0 is the even k, J = 1 the odd one.
  template <int J>
  static F bf16_of_pair(I pair) {
    return map([&](int i) { return bf16_to_float(static_cast<uint16_t>(pair.lane[i] >> (16 * J))); });
  }

  // Nibble words -> the float value of code J.
  struct Int4Decoder {
    explicit Int4Decoder(int /*radix*/) {}
    using Words = I;
    Words load(const uint32_t* hi, const uint32_t* /*lo*/) const { return load_words(hi); }
    template <int J>
    F at(const Words& w) const {
      return map([&](int i) { return static_cast<float>(static_cast<int>(w.lane[i] >> nibble_shift(J) & 15) - 8); });
    }
  };
  struct NestedDecoder {
    explicit NestedDecoder(int radix) : radix(radix) {}
    struct Words {
      I hi, lo;
    };
    Words load(const uint32_t* hi, const uint32_t* lo) const { return {load_words(hi), load_words(lo)}; }
    template <int J>
    F at(const Words& w) const {
      return map([&](int i) {
        const int hi = static_cast<int>(w.hi.lane[i] >> nibble_shift(J) & 15) - 8;
        return static_cast<float>(radix * hi + static_cast<int>(w.lo.lane[i] >> nibble_shift(J) & 15) - 8);
      });
    }
    int radix;
  };

  // Integer products. Codes of an octet: `low` holds k = 0..3 of each lane as unsigned bytes, `high` k = 4..7.
  struct Codes {
    I low, high;
  };
  static Codes split_nibbles(I words) {
    return {map_int([&](int i) { return words.lane[i] & 0x0f0f0f0fu; }),
            map_int([&](int i) { return words.lane[i] >> 4 & 0x0f0f0f0fu; })};
  }
  // radix · hi + lo a byte; at most 15 · 15 + 15 = 240, so bytes never carry.
  static Codes combine(Codes hi, Codes lo, int radix) {
    const uint32_t m = static_cast<uint32_t>(radix);
    return {map_int([&](int i) { return hi.low.lane[i] * m + lo.low.lane[i]; }),
            map_int([&](int i) { return hi.high.lane[i] * m + lo.high.lane[i]; })};
  }
  // A partial sum lives for 32 elements of K; finish() adds it, times `multiplier`, to the running sums.
  using Partial = I;
  static Partial start(I sums) { return sums; }
  static Partial dot(Partial sums, I codes, int32_t four_activations) {
    int8_t x[4];
    std::memcpy(x, &four_activations, 4);
    return map_int([&](int i) {
      int sum = 0;
      for (int b = 0; b < 4; ++b) sum += static_cast<int>(codes.lane[i] >> (8 * b) & 255) * x[b];
      return sums.lane[i] + static_cast<uint32_t>(sum);
    });
  }
  static I finish(I /*sums*/, Partial partial, int /*multiplier*/) { return partial; }
};

}  // namespace
}  // namespace qspec::cpu
