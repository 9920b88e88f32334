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

// The same of several blocks of eight columns.
template <typename One, int blocks>
struct OfBlocks {
  One of[blocks];
  QSPEC_DEVICE void clear() {
    QSPEC_UNROLL
    for (int b = 0; b < blocks; ++b) of[b].clear();
  }
  QSPEC_DEVICE void append(const OfBlocks& next) {
    QSPEC_UNROLL
    for (int b = 0; b < blocks; ++b) of[b].append(next.of[b]);
  }
};

// A warp's sums of some blocks in shared memory: of a block its maxima and weights, then each step's outputs, 16 bytes a lane.
template <int most_steps, int blocks>
struct SharedSums {
  SharedPlace at;  // this lane's
  int steps;       // up to most_steps

  QSPEC_DEVICE SharedPlace tail_at(int b) const { return at + b * (1 + steps) * kWarp * 16; }
  QSPEC_DEVICE SharedPlace step_at(int b, int step) const { return tail_at(b) + (1 + step) * kWarp * 16; }
  // Onto what is there; `is_first`: nothing is.
  QSPEC_DEVICE void append(const OfBlocks<AttentionSums<most_steps>, blocks>& all, bool is_first) const {
    QSPEC_UNROLL
    for (int b = 0; b < blocks; ++b) {
      const AttentionSums<most_steps>& next = all.of[b];
      AttentionSums<1> sum;  // of a step at a time
      sum.clear();
      if (!is_first) load_tail(tail_at(b), sum);
      FoldFactors factors[2];
      QSPEC_UNROLL
      for (int e = 0; e < 2; ++e) factors[e] = fold_factors(sum.largest[e], next.largest[e]), sum.weight[e] = fold(factors[e], sum.weight[e], next.weight[e]);
      shared_store_16(tail_at(b), uint4{bits_of_float(factors[0].largest), bits_of_float(factors[1].largest), bits_of_float(sum.weight[0]), bits_of_float(sum.weight[1])});
      QSPEC_UNROLL
      for (int i = 0; i < most_steps; ++i) {
        if (i >= steps) break;
        if (!is_first) load_step(step_at(b, i), sum.output[0]);
        float v[4];
        QSPEC_UNROLL
        for (int e = 0; e < 4; ++e) v[e] = fold(factors[e % 2], sum.output[0][e], next.output[i][e]);
        shared_store_16(step_at(b, i), uint4{bits_of_float(v[0]), bits_of_float(v[1]), bits_of_float(v[2]), bits_of_float(v[3])});
      }
    }
  }
  // `part`: of steps `step_of(0)`, `step_of(1)`, … those that there are.
  template <int count, typename StepOf>
  QSPEC_DEVICE void load_part(OfBlocks<AttentionSums<count>, blocks>& part, const StepOf& step_of) const {
    QSPEC_UNROLL
    for (int b = 0; b < blocks; ++b) {
      load_tail(tail_at(b), part.of[b]);
      QSPEC_UNROLL
      for (int s = 0; s < count; ++s)
        if (step_of(s) < steps) load_step(step_at(b, step_of(s)), part.of[b].output[s]);
    }
  }

 private:
  template <int count>
  QSPEC_DEVICE static void load_tail(SharedPlace from, AttentionSums<count>& sums) {
    const uint4 tail = shared_load_16(from);
    sums.largest[0] = float_of_bits(tail.x), sums.largest[1] = float_of_bits(tail.y), sums.weight[0] = float_of_bits(tail.z), sums.weight[1] = float_of_bits(tail.w);
  }
  QSPEC_DEVICE static void load_step(SharedPlace from, float (&output)[4]) {
    const uint4 words = shared_load_16(from);
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) output[e] = float_of_bits(word_of(words, e));
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
