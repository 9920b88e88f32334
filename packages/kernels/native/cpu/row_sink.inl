// Where computed rows go: block-Hadamard, then float or quantised store. Included by row_ops.inl and attention.inl.
#include "row_ops.h"

namespace qspec::cpu::QSPEC_ISA {

namespace {

// One Hadamard block, or part of one, of kVectors vectors that stay in registers: all butterflies of distance <
// kVectors · kLanes.
template <int kVectors>
void hadamard_vectors(float* block, int length, float factor) {
  F v[kVectors];
  const I lane = lane_index();
  const int in_lane = length < kLanes ? length : kLanes;
  for (int i = 0; i < kVectors; ++i) v[i] = load(block + i * kLanes);
  // y[lane] = x[partner] ± x[lane]: minus where the lane has the distance bit.
#define QSPEC_BUTTERFLY(distance)                                                                                      \
  if (distance < in_lane) {                                                                                            \
    const I odd = less_i(splat_i(0), and_i(lane, splat_i(distance)));                                                  \
    for (int i = 0; i < kVectors; ++i) v[i] = add(swap < distance<kLanes ? distance : 1>(v[i]), flip_sign(v[i], odd)); \
  }
  QSPEC_BUTTERFLY(1)
  QSPEC_BUTTERFLY(2)
  QSPEC_BUTTERFLY(4)
  QSPEC_BUTTERFLY(8)
#undef QSPEC_BUTTERFLY
  for (int distance = 1; distance < kVectors; distance *= 2) {
    for (int i = 0; i < kVectors; ++i) {
      if (i & distance) continue;
      const F a = v[i], b = v[i + distance];
      v[i] = add(a, b);
      v[i + distance] = sub(a, b);
    }
  }
  for (int i = 0; i < kVectors; ++i) store(block + i * kLanes, mul(v[i], splat(factor)));
}

void hadamard_scalar(float* block, int length, float factor) {
  for (int distance = 1; distance < length; distance *= 2) {
    for (int i = 0; i < length; ++i) {
      if (i & distance) continue;
      const float a = block[i], b = block[i + distance];
      block[i] = a + b;
      block[i + distance] = a - b;
    }
  }
  for (int i = 0; i < length; ++i) block[i] *= factor;
}

void hadamard_block(float* block, int length) {
  const float factor = 1.0f / __builtin_sqrtf(static_cast<float>(length));
  switch (length / kLanes) {
    case 0:
      return hadamard_scalar(block, length, factor);
    case 1:
      return hadamard_vectors<1>(block, length, factor);
    case 2:
      return hadamard_vectors<2>(block, length, factor);
    case 4:
      return hadamard_vectors<4>(block, length, factor);
    default:
      break;
  }
  constexpr int kChunk = 8 * kLanes;  // longer blocks: chunks in registers, then the wide butterflies through memory
  for (int i = 0; i < length; i += kChunk) hadamard_vectors<8>(block + i, kChunk, factor);
  for (int distance = kChunk; distance < length; distance *= 2) {
    for (int i = 0; i < length; i += kLanes) {
      if (i & distance) continue;
      const F a = load(block + i), b = load(block + i + distance);
      store(block + i, add(a, b));
      store(block + i + distance, sub(a, b));
    }
  }
}

// Bits of the largest |x|, compared as integers so that infinity and NaN win.
int32_t max_abs_bits(const float* values, int64_t count) {
  I largest = splat_i(0);
  const I magnitude = splat_i(0x7fffffff);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) largest = max_i(largest, and_i(load_i(values + i), magnitude));
  int32_t result = first_i(max_lanes_i(largest));
  for (; i < count; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, values + i, 4);
    bits &= 0x7fffffff;
    result = bits > result ? bits : result;
  }
  return result;
}

struct Scale {
  float scale, inverse;  // x ≈ scale · code, code = round(x · inverse)
};

// All-zero spans (and those under 1e-35, whose inverse would overflow) get 0; spans with NaN or infinity scale NaN,
// codes 0.
Scale scale_of(int32_t max_bits, int qmax) {
  float max_abs;
  __builtin_memcpy(&max_abs, &max_bits, 4);
  if (max_bits >= 0x7f800000) return {NAN, 0.0f};
  if (max_abs < 1e-35f) return {0.0f, 0.0f};
  return {max_abs / static_cast<float>(qmax), static_cast<float>(qmax) / max_abs};
}

// Returns the sum of the codes.
int32_t quantize_span(const float* values, int64_t count, float inverse, int8_t* codes) {
  if (inverse == 0.0f) {
    __builtin_memset(codes, 0, count);
    return 0;
  }
  int32_t sum = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    if (i + kLanes <= count) {
      const I code = to_int(mul(load(values + i), splat(inverse)));
      store_bytes(codes + i, code);
      int32_t lanes[kLanes];
      store_i(lanes, code);
      for (int j = 0; j < kLanes; ++j) sum += lanes[j];
      continue;
    }
    for (int64_t j = i; j < count; ++j) sum += codes[j] = static_cast<int8_t>(__builtin_lrintf(values[j] * inverse));
  }
  return sum;
}

// Where columns [column, …) of `row` should be computed: in place for float sinks, else in `staging` (as many floats as
// there are columns).
float* sink_target(const RowSink& sink, int64_t row, int64_t width, int64_t column, float* staging) {
  return sink.quantized.codes == nullptr ? sink.values + row * width + column : staging;
}

// Finishes `count` columns from `column` on (whole sink units), which lie at `values` = sink_target(…).
void finish_columns(const RowSink& sink, int64_t row, int64_t width, int64_t column, int64_t count, float* values) {
  if (sink.hadamard_block > 0) {
    for (int64_t i = 0; i < count; i += sink.hadamard_block) hadamard_block(values + i, sink.hadamard_block);
  }
  const QuantizedRows& out = sink.quantized;
  if (out.codes == nullptr) return;
  const int qmax = (1 << (out.bits - 1)) - 1;
  const int64_t group = out.group_size;
  Scale scale = {};
  if (out.per_token) scale = scale_of(max_abs_bits(values, count), qmax);  // count == width
  for (int64_t i = 0; i < count; i += group) {
    if (!out.per_token) scale = scale_of(max_abs_bits(values + i, group), qmax);
    const int64_t index = row * (width / group) + (column + i) / group;
    out.scales[index] = scale.scale;
    out.sums[index] = quantize_span(values + i, group, scale.inverse, out.codes + row * width + column + i);
  }
}

}  // namespace

}  // namespace qspec::cpu::QSPEC_ISA
