// Row ops over the vector wrapper of one instruction set (simd_*.h, included before). A row's result depends on nothing
// but the row: rows (or, where a row falls apart into sink units, units) are cut between threads, and each is computed
// by the same code.
#include "qspec/packing.h"
#include "row_sink.inl"

namespace qspec::cpu::QSPEC_ISA {

namespace {

struct Range {
  int64_t begin, end;
};
Range range_of_part(int64_t count, Part part) {
  return {count * part.index / part.count, count * (part.index + 1) / part.count};
}

float sum_of_squares(const float* values, int64_t count) {
  F sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const F x = load(values + i + j * kLanes);
      sums[j] = fma(x, x, sums[j]);
    }
  }
  for (; i + kLanes <= count; i += kLanes) {
    const F x = load(values + i);
    sums[0] = fma(x, x, sums[0]);
  }
  float sum = first(sum_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3]))));
  for (; i < count; ++i) sum += values[i] * values[i];
  return sum;
}

// output = input · factor · weight; output may be input.
void scale_by(const float* input, float factor, const float* weight, int64_t count, float* output) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    store(output + i, mul(mul(load(input + i), splat(factor)), load(weight + i)));
  for (; i < count; ++i) output[i] = input[i] * factor * weight[i];
}

void add_to(float* values, const float* delta, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(values + i, add(load(values + i), load(delta + i)));
  for (; i < count; ++i) values[i] += delta[i];
}

float inverse_rms(const float* values, int64_t count, float eps) {
  return 1.0f / __builtin_sqrtf(sum_of_squares(values, count) / static_cast<float>(count) + eps);
}

// Calls body(row, column, count) for the sink units of this part, neighbours merged; unit = columns that can be
// finished alone.
template <typename Body>
void for_each_span(int64_t rows, int64_t width, int64_t unit, Part part, Body body) {
  const int64_t per_row = width / unit;
  const Range range = range_of_part(rows * per_row, part);
  for (int64_t i = range.begin; i < range.end;) {
    const int64_t row = i / per_row, begin = i % per_row;
    const int64_t end = begin + (range.end - i) < per_row ? begin + (range.end - i) : per_row;
    body(row, begin * unit, (end - begin) * unit);
    i += end - begin;
  }
}

// Columns to hand out at a time: whole sink units of at least 128 columns, so that threads don't share cache lines.
int64_t span_unit(const RowSink& sink, int64_t width) {
  const int64_t unit = sink_unit(sink, width, 128);
  return width % unit == 0 ? unit : width;
}

}  // namespace

void embedding(const EmbeddingParams& params, Part part) {
  const PackedWeight& table = *params.table;
  const Range range = range_of_part(params.rows, part);
  for (int64_t row = range.begin; row < range.end; ++row) {
    float* output = params.output + row * table.k;
    unpack_row(table, Plane::kFull, params.tokens[row], output);
    // The table holds W · H, and H · H = 1.
    for (int64_t i = 0; table.hadamard_block > 0 && i < table.k; i += table.hadamard_block) {
      hadamard_block(output + i, table.hadamard_block);
    }
  }
}

void rms_norm(const RmsNormParams& params, Part part) {
  const int64_t width = params.width;
  const Range range = range_of_part(params.rows, part);
  float* staging = thread_scratch(ScratchUse::kRow, width);
  for (int64_t row = range.begin; row < range.end; ++row) {
    float* input = params.input + row * width;
    if (params.delta != nullptr) add_to(input, params.delta + row * width, width);
    float* values = sink_target(params.sink, row, width, 0, staging);
    scale_by(input, inverse_rms(input, width, params.eps), params.weight, width, values);
    finish_columns(params.sink, row, width, 0, width, values);
  }
}

void transform(const TransformParams& params, Part part) {
  const int64_t width = params.width;
  float* staging = thread_scratch(ScratchUse::kRow, width);
  for_each_span(params.rows, width, span_unit(params.sink, width), part,
                [&](int64_t row, int64_t column, int64_t count) {
                  const float* input = params.input + row * width + column;
                  float* values = sink_target(params.sink, row, width, column, staging);
                  if (values != input) __builtin_memcpy(values, input, count * sizeof(float));
                  finish_columns(params.sink, row, width, column, count, values);
                });
}

void silu_mul(const SiluMulParams& params, Part part) {
  const int64_t width = params.width;
  float* staging = thread_scratch(ScratchUse::kRow, width);
  for_each_span(
      params.rows, width, span_unit(params.sink, width), part, [&](int64_t row, int64_t column, int64_t count) {
        const float* gate = params.input + row * 2 * width + column;
        const float* up = gate + width;
        float* values = sink_target(params.sink, row, width, column, staging);
        const auto silu_times = [](F x, F y) { return mul(div(x, add(splat(1.0f), exp(sub(splat(0.0f), x)))), y); };
        int64_t i = 0;
        for (; i + kLanes <= count; i += kLanes) store(values + i, silu_times(load(gate + i), load(up + i)));
        if (i < count) {
          const int rest = static_cast<int>(count - i);
          float lanes[kLanes];
          store(lanes, silu_times(as_float(load_i_first(gate + i, rest)), as_float(load_i_first(up + i, rest))));
          __builtin_memcpy(values + i, lanes, rest * sizeof(float));
        }
        finish_columns(params.sink, row, width, column, count, values);
      });
}

namespace {

void rotate_head(float* head, int half, const float* cosines, const float* sines) {
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const F a = load(head + i), b = load(head + half + i), c = load(cosines + i), s = load(sines + i);
    store(head + i, fnma(b, s, mul(a, c)));
    store(head + half + i, fma(a, s, mul(b, c)));
  }
  for (; i < half; ++i) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cosines[i] - b * sines[i];
    head[half + i] = b * cosines[i] + a * sines[i];
  }
}

// Round to nearest even; NaN stays NaN.
I to_bf16(F a) {
  const I bits = as_int(a), odd = and_i(shift_right_zero<16>(bits), splat_i(1));
  const I rounded = shift_right_zero<16>(add_i(bits, add_i(odd, splat_i(0x7fff))));
  const I is_nan = less_i(splat_i(0x7f800000), and_i(bits, splat_i(0x7fffffff)));
  return as_int(select(as_float(rounded), as_float(splat_i(0x7fc0)), is_nan));
}

void store_bf16(const float* values, int count, uint16_t* output) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store_halves(output + i, to_bf16(load(values + i)));
  if (i < count) {
    uint16_t lanes[kLanes];
    store_halves(lanes, to_bf16(as_float(load_i_first(values + i, count - i))));
    __builtin_memcpy(output + i, lanes, (count - i) * sizeof(uint16_t));
  }
}

void store_kv(const KvLayer& cache, void* data, float* scales, int64_t slot, int head, const float* values) {
  const int64_t vector = slot * cache.num_kv_heads + head, base = vector * cache.head_dim;
  switch (cache.format) {
    case KvFormat::kF32:
      __builtin_memcpy(static_cast<float*>(data) + base, values, cache.head_dim * sizeof(float));
      return;
    case KvFormat::kBf16:
      return store_bf16(values, cache.head_dim, static_cast<uint16_t*>(data) + base);
    default: {
      const Scale scale = scale_of(max_abs_bits(values, cache.head_dim), 127);
      scales[vector] = scale.scale;
      quantize_span(values, cache.head_dim, scale.inverse, static_cast<int8_t*>(data) + base);
    }
  }
}

}  // namespace

// Cut by (row, head): q heads one by one, then each k head with its v head.
void rope_kv_write(const RopeKvWriteParams& params, Part part) {
  const KvLayer& cache = params.cache;
  const int head_dim = cache.head_dim, half = head_dim / 2, num_q = params.num_heads, num_kv = cache.num_kv_heads;
  const int64_t per_row = num_q + num_kv;
  const Range range = range_of_part(params.batch.rows * per_row, part);
  float* cosines = thread_scratch(ScratchUse::kRope, head_dim);
  float* sines = cosines + half;
  int64_t row_of_table = -1;
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t row = i / per_row, head = i % per_row;
    if (row != row_of_table) {
      fill_rope_table(params.inverse_frequencies, half, params.batch.positions[row], params.attention_factor, cosines,
                      sines);
      row_of_table = row;
    }
    float* vector = params.qkv + row * (num_q + 2 * num_kv) * head_dim + head * head_dim;
    const float* norm = head < num_q ? params.q_norm : params.k_norm;
    if (norm != nullptr) scale_by(vector, inverse_rms(vector, head_dim, params.eps), norm, head_dim, vector);
    rotate_head(vector, half, cosines, sines);
    if (head < num_q) continue;
    const int kv_head = static_cast<int>(head) - num_q;
    store_kv(cache, cache.k, cache.k_scales, params.batch.slots[row], kv_head, vector);
    store_kv(cache, cache.v, cache.v_scales, params.batch.slots[row], kv_head, vector + num_kv * head_dim);
  }
}

}  // namespace qspec::cpu::QSPEC_ISA
