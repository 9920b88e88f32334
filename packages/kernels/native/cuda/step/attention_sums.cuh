// Sums of attention: what splits of positions give, appended to each other in an order that doesn't depend on who computed them.
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

struct FoldFactors {
  float old_scale, new_scale, largest;
};
// Without branches: what isn't there (-infinity) has weight 0, and the other stays exactly what it was.
QSPEC_DEVICE FoldFactors fold_factors(float largest, float next) {
  const float m = largest > next ? largest : next;
  return {largest == -INFINITY ? 0.0f : exp2_fast(largest - m), next == -INFINITY ? 0.0f : exp2_fast(next - m), m};
}
QSPEC_DEVICE float fold(const FoldFactors& f, float old_value, float next) { return fmaf(old_value, f.old_scale, next * f.new_scale); }

// A lane's share of a warp's eight columns over some splits: of columns 2t and 2t + 1 (lane 4·g + t) the maximum (base 2), the weights' sum and, of two
// dims in each step of 16, the outputs: [step][column, and then the same of the other dim].
template <int steps>
struct AttentionSums {
  float largest[2], weight[2], output[steps][4];

  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int e = 0; e < 2; ++e) largest[e] = -INFINITY, weight[e] = 0;
    QSPEC_UNROLL
    for (int i = 0; i < steps; ++i) output[i][0] = output[i][1] = output[i][2] = output[i][3] = 0;
  }
  // Onto cleared ones this is exact.
  QSPEC_DEVICE void append(const AttentionSums& next) {
    QSPEC_UNROLL
    for (int e = 0; e < 2; ++e) {
      const FoldFactors f = fold_factors(largest[e], next.largest[e]);
      largest[e] = f.largest, weight[e] = fold(f, weight[e], next.weight[e]);
      QSPEC_UNROLL
      for (int i = 0; i < steps; ++i) output[i][e] = fold(f, output[i][e], next.output[i][e]), output[i][2 + e] = fold(f, output[i][2 + e], next.output[i][2 + e]);
    }
  }
  // A lane's words lie kWarp apart.
  QSPEC_DEVICE void save(float* to) const {
    QSPEC_UNROLL
    for (int e = 0; e < 2; ++e) store_l2(to + e * kWarp, largest[e]), store_l2(to + (2 + e) * kWarp, weight[e]);
    QSPEC_UNROLL
    for (int i = 0; i < steps; ++i)
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) store_l2(to + (4 + 4 * i + e) * kWarp, output[i][e]);
  }
  QSPEC_DEVICE void load(const float* from) {
    QSPEC_UNROLL
    for (int e = 0; e < 2; ++e) largest[e] = load_l2(from + e * kWarp), weight[e] = load_l2(from + (2 + e) * kWarp);
    QSPEC_UNROLL
    for (int i = 0; i < steps; ++i)
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) output[i][e] = load_l2(from + (4 + 4 * i + e) * kWarp);
  }
};

// Of one column, four outputs.
struct FoldedOutputs {
  float value[4], largest, weight;
  QSPEC_DEVICE void clear() { value[0] = value[1] = value[2] = value[3] = weight = 0, largest = -INFINITY; }
  QSPEC_DEVICE void append(const FoldedOutputs& next) { append(next, fold_factors(largest, next.largest)); }
  QSPEC_DEVICE void append(const FoldedOutputs& next, const FoldFactors& f) {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) value[e] = fold(f, value[e], next.value[e]);
    largest = f.largest, weight = fold(f, weight, next.weight);
  }
};

}  // namespace qspec::cuda
