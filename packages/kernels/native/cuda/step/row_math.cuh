// Row-wise arithmetic by warps: norm, SiLU·mul, rotation, rounding, quantisation. A warp owns one run (512 elements) of a row; lane l holds
// elements 128·i + 4·l + e of it as v[4·i + e]. Sums over a row are per run (lanes, then a fixed tree), then runs in order: the same
// whichever warps do it, so every path gives a row the same bits.
#pragma once
#include "common/primitives.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

constexpr int kRunValues = kRunK / kWarp;  // 16 a lane

QSPEC_DEVICE int run_element(int lane, int i) { return 128 * i + 4 * lane; }  // of v[4·i]

// Elements of `run` of a float32 row, zero past its width.
QSPEC_DEVICE void load_run(const float* row, int width, int run, int lane, float (&v)[kRunValues]) {
  const bool is_whole = width % 4 == 0;
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    float4 four = {0, 0, 0, 0};
    if (is_whole) {
      if (k < width) four = load_l2(reinterpret_cast<const float4*>(row + k));
    } else {
      if (k < width) four.x = load_l2(row + k);
      if (k + 1 < width) four.y = load_l2(row + k + 1);
      if (k + 2 < width) four.z = load_l2(row + k + 2);
      if (k + 3 < width) four.w = load_l2(row + k + 3);
    }
    v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
  }
}
QSPEC_DEVICE void store_run(float* row, int width, int run, int lane, const float (&v)[kRunValues]) {
  QSPEC_UNROLL
  for (int i = 0; i < kRunValues; ++i) {
    const int k = run * kRunK + run_element(lane, i / 4) + i % 4;
    if (k < width) row[k] = v[i];
  }
}

QSPEC_DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

// The row's values before norm and rotation. SiLU·mul: gate | up.
QSPEC_DEVICE void load_source(const RowsSpec& spec, int64_t row, int run, int lane, float (&v)[kRunValues]) {
  if (spec.source != RowSource::kSilu) return load_run(spec.input + row * spec.width, spec.width, run, lane, v);
  const float* gate = spec.input + row * 2 * spec.width;
  float up[kRunValues];
  load_run(gate, spec.width, run, lane, v);
  load_run(gate + spec.width, spec.width, run, lane, up);
  QSPEC_UNROLL
  for (int i = 0; i < kRunValues; ++i) v[i] = silu(v[i]) * up[i];
}

QSPEC_DEVICE float warp_sum(float value) {
  QSPEC_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
// NaN wins.
QSPEC_DEVICE float max_or_nan(float a, float b) { return is_nan(a) || is_nan(b) ? float_of_bits(0x7fffffffu) : a > b ? a : b; }
// Over neighbourhoods of 2^count lanes.
QSPEC_DEVICE float lanes_max(float value, int count) {
  for (int mask = 1; mask < 1 << count; mask *= 2) value = max_or_nan(value, shuffle_xor(value, mask));
  return value;
}
QSPEC_DEVICE float magnitude(float v) { return is_finite(v) ? fabsf(v) : float_of_bits(0x7fffffffu); }

QSPEC_DEVICE float sum_of_squares(const float (&v)[kRunValues]) {
  float sum = 0;
  QSPEC_UNROLL
  for (int i = 0; i < kRunValues; ++i) sum = fmaf(v[i], v[i], sum);
  return warp_sum(sum);
}

// y = x · H / sqrt(block) within the run, Sylvester order; block = 2^shift, at most 512.
QSPEC_DEVICE void rotate_run(float (&v)[kRunValues], int shift, int lane) {
  if (shift == 0) return;
  QSPEC_UNROLL
  for (int s = 0; s < 9; ++s) {
    if (s >= shift) break;
    if (s >= 2 && s < 7) {  // partners are in other lanes
      const bool is_upper = lane >> (s - 2) & 1;
      QSPEC_UNROLL
      for (int i = 0; i < kRunValues; ++i) {
        const float other = shuffle_xor(v[i], 1 << (s - 2));
        v[i] = is_upper ? other - v[i] : v[i] + other;
      }
    } else {
      const int step = s < 2 ? 1 << s : 4 << (s - 7);
      QSPEC_UNROLL
      for (int i = 0; i < kRunValues; ++i) {
        if (i & step) continue;
        const float a = v[i], b = v[i + step];
        v[i] = a + b, v[i + step] = a - b;
      }
    }
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(1 << shift));
  QSPEC_UNROLL
  for (int i = 0; i < kRunValues; ++i) v[i] *= norm;
}

// The norm's weights and the rotation of loaded values. The norm's factor, 1 / rms, is left to whoever reads the result: it is one number a
// row and everything from here to the end of a product is linear in it, so nothing waits for the row's sum.
QSPEC_DEVICE void finish_source(const RowsSpec& spec, int run, int lane, float (&v)[kRunValues]) {
  if (spec.source == RowSource::kNorm) {
    float w[kRunValues];
    load_run(spec.norm_weight, spec.width, run, lane, w);
    QSPEC_UNROLL
    for (int i = 0; i < kRunValues; ++i) v[i] *= w[i];
  }
  rotate_run(v, spec.hadamard_shift, lane);
}

// bf16 x-form: four consecutive k are half of a lane's 16 bytes. Zero up to the end of the last tile.
QSPEC_DEVICE void store_bf16(uint8_t* x, const RowBlocks& blocks, int row, int width, int run, int lane, const float (&v)[kRunValues]) {
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    if (k >= (width + 63) / 64 * 64) continue;
    *reinterpret_cast<uint2*>(x + x_offset(blocks, row, k)) = uint2{pack_bf16(v[4 * i], v[4 * i + 1]), pack_bf16(v[4 * i + 2], v[4 * i + 3])};
  }
}

// Codes of a group are 32, 64 or 128 neighbours: 8, 16 or 32 lanes.
QSPEC_DEVICE void store_codes(const XForm& x, const RowBlocks& blocks, int row, int width, int run, int lane, float row_largest,
                              const float (&v)[kRunValues]) {
  const float qmax = x.bits == 8 ? 127.0f : 7.0f;
  const int lanes = x.group_shift - 2;  // log2
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    float largest = row_largest;
    if (!x.per_token) {
      largest = max_or_nan(max_or_nan(magnitude(v[4 * i]), magnitude(v[4 * i + 1])), max_or_nan(magnitude(v[4 * i + 2]), magnitude(v[4 * i + 3])));
      largest = lanes_max(largest, lanes);
    }
    const float scale = largest / qmax;
    uint32_t word = 0;
    int sum = 0;
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float limited = fminf(fmaxf(v[4 * i + e] / scale, -qmax), qmax);
      const int code = is_finite(scale) && scale > 0 ? static_cast<int>(rintf(limited)) : 0;
      sum += code;
      word |= (static_cast<uint32_t>(code) & 255u) << (8 * static_cast<int>(code_place(e)));
    }
    for (int mask = 1; mask < 1 << lanes; mask *= 2) sum += shuffle_xor(sum, mask);
    if (k >= (width + 63) / 64 * 64) continue;
    *reinterpret_cast<uint32_t*>(x.data + code_offset(blocks, row, k)) = word;
    if (k < width && lane % (1 << lanes) == 0) {
      const int at = (k >> x.group_shift) * blocks.columns() + row;
      x.scales[at] = scale, x.sums[at] = sum;
    }
  }
}

// 1 / rms of a row whose runs' squares are at `squares`.
QSPEC_DEVICE float row_factor(const RowsSpec& spec, const float* squares) {
  if (spec.source != RowSource::kNorm) return 1.0f;
  const int runs = (spec.width + kRunK - 1) / kRunK;
  float sum = 0;
  for (int i = 0; i < runs; ++i) sum += squares[i];
  return 1.0f / sqrtf(sum / static_cast<float>(spec.width) + spec.eps);
}

// Which rows, and which of their runs, one call transforms.
struct RowsTask {
  const int32_t* index;     // rows to read instead of first …, or nullptr
  int first, count;
  int run_begin, run_end;   // runs that are stored; x begins with run_begin
  int x_first;              // number of the first row in x
};

QSPEC_DEVICE int64_t source_row(const RowsTask& task, int r) {
  return static_cast<int64_t>(task.index ? load_constant(task.index + task.first + r) : task.first + r);
}

// A run's values before the norm's weights; adds delta to the source in place, and leaves the run's sum of squares.
QSPEC_DEVICE void begin_run(const RowsSpec& spec, const RowsTask& task, const RowScratch& scratch, int r, int run, int lane, float (&v)[kRunValues]) {
  const int64_t row = source_row(task, r);
  load_source(spec, row, run, lane, v);
  if (spec.delta) {
    float d[kRunValues];
    load_run(spec.delta + row * spec.width, spec.width, run, lane, d);
    QSPEC_UNROLL
    for (int j = 0; j < kRunValues; ++j) v[j] += d[j];
    store_run(spec.input + row * spec.width, spec.width, run, lane, v);
  }
  if (spec.source != RowSource::kNorm) return;
  const float squares = sum_of_squares(v);
  if (lane == 0) scratch.squares[r * ((spec.width + kRunK - 1) / kRunK) + run] = squares;
}

QSPEC_DEVICE void store_x(const RowsSpec& spec, const RowsTask& task, const XForm& x, const RowBlocks& blocks, const RowScratch& scratch, int r, int run,
                          int lane, const float (&v)[kRunValues]) {
  const int width = spec.width - task.run_begin * kRunK, local = run - task.run_begin;
  if (local < 0 || run >= task.run_end) return;  // its squares alone were wanted
  if (x.bits == 16) return store_bf16(x.data, blocks, task.x_first + r, width, local, lane, v);
  float largest = 0;
  const int runs = (spec.width + kRunK - 1) / kRunK;
  for (int j = 0; x.per_token && j < runs; ++j) largest = max_or_nan(largest, scratch.largest[r * runs + j]);
  store_codes(x, blocks, task.x_first + r, width, local, lane, largest, v);
}

// A norm needs the squares of all runs, and one scale a token their maxima; else only those runs are touched that are stored.
QSPEC_DEVICE bool needs_all_runs(const RowsSpec& spec, const XForm& x) { return spec.source == RowSource::kNorm || (x.bits < 16 && x.per_token); }

// The largest magnitude of every run, for rows with one scale a token.
QSPEC_DEVICE_CALL void find_largest(const RowsSpec* spec, RowsTask task, RowScratch scratch, int num_warps) {
  const int warp = thread_index() / kWarp, lane = lane_index(), runs = (spec->width + kRunK - 1) / kRunK;
  for (int i = warp; i < task.count * runs; i += num_warps) {
    float v[kRunValues], largest = 0;
    begin_run(*spec, task, scratch, i / runs, i % runs, lane, v);
    finish_source(*spec, i % runs, lane, v);
    QSPEC_UNROLL
    for (int j = 0; j < kRunValues; ++j) largest = max_or_nan(largest, magnitude(v[j]));
    largest = lanes_max(largest, 5);
    if (lane == 0) scratch.largest[i] = largest;
  }
  named_barrier(kBlockBarrier, num_warps * kWarp);
}

// All warps of the block: rows of `spec` into x-form, without the norm's factor (see finish_source). The caller synchronises. Not inlined:
// every phase that needs it should run the same code.
QSPEC_DEVICE_CALL void transform_rows(const RowsSpec* spec_address, RowsTask task, XForm x, RowBlocks blocks, RowScratch scratch, int num_warps) {
  RowsSpec spec = *spec_address;
  const int warp = thread_index() / kWarp, lane = lane_index(), runs = (spec.width + kRunK - 1) / kRunK;
  const bool is_whole = needs_all_runs(spec, x);
  const int begin = is_whole ? 0 : task.run_begin, each = is_whole ? runs : task.run_end - task.run_begin, count = task.count * each;
  if (x.bits < 16 && x.per_token) {
    find_largest(spec_address, task, scratch, num_warps);
    spec.delta = nullptr;  // added by now
  }
  // Two runs at a time, so that their loads wait together.
  QSPEC_NO_UNROLL
  for (int i = warp; i < count; i += 2 * num_warps) {
    const int second = i + num_warps;
    float v[kRunValues], next[kRunValues];
    begin_run(spec, task, scratch, i / each, begin + i % each, lane, v);
    if (second < count) begin_run(spec, task, scratch, second / each, begin + second % each, lane, next);
    QSPEC_NO_UNROLL
    for (int at = i; at <= second && at < count; at += num_warps) {
      finish_source(spec, begin + at % each, lane, v);
      store_x(spec, task, x, blocks, scratch, at / each, begin + at % each, lane, v);
      QSPEC_UNROLL
      for (int j = 0; j < kRunValues; ++j) v[j] = next[j];
    }
  }
}

// The same into float32 rows [row][width], norm's factor included.
QSPEC_DEVICE_CALL void transform_rows_plain(const RowsSpec* spec_address, RowsTask task, float* output, RowScratch scratch, int num_warps) {
  const RowsSpec& spec = *spec_address;
  const int warp = thread_index() / kWarp, lane = lane_index(), runs = (spec.width + kRunK - 1) / kRunK;
  float v[kRunValues];
  for (int i = warp; i < task.count * runs; i += num_warps) begin_run(spec, task, scratch, i / runs, i % runs, lane, v);
  named_barrier(kBlockBarrier, num_warps * kWarp);
  RowsSpec again = spec;
  again.delta = nullptr;
  for (int i = warp; i < task.count * runs; i += num_warps) {
    const int r = i / runs, run = i % runs;
    load_source(again, source_row(task, r), run, lane, v);
    finish_source(spec, run, lane, v);
    const float factor = row_factor(spec, scratch.squares + r * runs);
    QSPEC_UNROLL
    for (int j = 0; j < kRunValues; ++j) v[j] *= factor;
    store_run(output + static_cast<int64_t>(task.x_first + r) * spec.width, spec.width, run, lane, v);
  }
}

}  // namespace qspec::cuda
