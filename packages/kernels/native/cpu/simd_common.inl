// What follows from the primitives, in the namespace of the instruction set: reductions and the exponential.
namespace qspec::cpu::QSPEC_ISA {

// Butterfly, so that every lane ends with the same value, always added in the same order.
inline F sum_lanes(F a) {
  if constexpr (kLanes == 16) a = add(a, swap<kLanes / 2>(a));
  a = add(a, swap<4>(a));
  a = add(a, swap<2>(a));
  return add(a, swap<1>(a));
}
inline F max_lanes(F a) {
  if constexpr (kLanes == 16) a = max(a, swap<kLanes / 2>(a));
  a = max(a, swap<4>(a));
  a = max(a, swap<2>(a));
  return max(a, swap<1>(a));
}
inline I max_lanes_i(I a) {
  if constexpr (kLanes == 16) a = max_i(a, as_int(swap<kLanes / 2>(as_float(a))));
  a = max_i(a, as_int(swap<4>(as_float(a))));
  a = max_i(a, as_int(swap<2>(as_float(a))));
  return max_i(a, as_int(swap<1>(as_float(a))));
}
inline float first(F a) {
  float lanes[kLanes];
  store(lanes, a);
  return lanes[0];
}
inline int32_t first_i(I a) {
  int32_t lanes[kLanes];
  store_i(lanes, a);
  return lanes[0];
}

// e^x, below 2 ulp; 0 under -87.3 (no denormals), infinity over 88.72, NaN for NaN.
// x = n·ln2 + r, |r| <= ln2/2; e^r by a polynomial of degree 6 (Cephes expf).
inline F exp(F x) {
  const F clamped = min(splat(88.72f), max(splat(-87.3f), x));  // both pass a NaN on
  const F n = round(mul(clamped, splat(1.44269504f)));
  F r = fnma(n, splat(0.693359375f), clamped);
  r = fnma(n, splat(-2.12194440e-4f), r);
  F p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), splat(1.0f));
  // n = 128 does not fit one exponent: two steps.
  const I exponent = to_int(n), half = shift_right<1>(exponent);
  const F low = as_float(shift_left<23>(add_i(half, splat_i(127))));
  const F high = as_float(shift_left<23>(add_i(sub_i(exponent, half), splat_i(127))));
  const F result = if_less(x, splat(-87.3f), splat(0.0f), mul(mul(p, low), high));
  return if_less(splat(88.72f), x, splat(INFINITY), result);
}

}  // namespace qspec::cpu::QSPEC_ISA
