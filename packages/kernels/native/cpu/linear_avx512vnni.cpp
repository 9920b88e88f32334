// AVX-512 with VNNI: the integer products are one vpdpbusd (4 unsigned x signed bytes into 32 bits, no saturation)
// where AVX-512BW needs two instructions and a widening; codes may use all 8 bits, so a nested weight is one dot
// product instead of two.
#include "gemm_driver.h"
#include "gemm_lanes_avx512.h"

namespace qspec::cpu {

namespace {

struct Avx512VnniLanes : Avx512Lanes {
  static constexpr bool kWideCodes = true;

  // Bytes of hi are at most 15 and radix at most 15, so a 16-bit multiply of two bytes at once never carries.
  static Codes combine(Codes hi, Codes lo, int radix) {
    const I multiplier = _mm512_set1_epi16(static_cast<short>(radix));
    return {_mm512_add_epi32(_mm512_mullo_epi16(hi.low, multiplier), lo.low),
            _mm512_add_epi32(_mm512_mullo_epi16(hi.high, multiplier), lo.high)};
  }
  static Partial start(I sums) { return sums; }
  static Partial dot(Partial sums, I codes, int32_t four_activations) {
    return _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(four_activations));
  }
  static I finish(I /*sums*/, Partial partial, int /*multiplier*/) { return partial; }
};

}  // namespace

// Float input gains nothing from VNNI.
void linear_avx512vnni(const LinearParams& params, Part part) {
  params.quantized_input == nullptr ? linear_avx512(params, part) : run_int_linear<Avx512VnniLanes>(params, part);
}

}  // namespace qspec::cpu
