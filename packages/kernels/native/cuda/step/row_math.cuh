// Row-wise arithmetic by warps: norm, SiLU·mul, rotation, rounding, quantisation. A warp owns one run (512 elements) of a row; lane l holds
// elements 128·i + 4·l + e of it as v[4·i + e]. Sums over a row are per run (lanes, then a fixed tree), then runs in order: the same
// whichever warps do it, so every path gives a row the same bits.
#pragma once
#include "common/primitives.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

constexpr int kRunValues = kRunK / kWarp;  // 16 a lane

QSPEC_DEVICE int run_element(int lane, int i) { return 128 * i + 4 * lane; }  // of v[4·i]

// Elements of `run` of a float32 row, zero past its width (a multiple of 4).
QSPEC_DEVICE void load_run(const float* row, int width, int run, int lane, float (&v)[kRunValues]) {
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    float4 four = {0, 0, 0, 0};
    if (k < width) four = load_l2(reinterpret_cast<const float4*>(row + k));
    v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
  }
}
// The same of a row that is posted, when it is there.
QSPEC_DEVICE void await_run(const float* row, int width, int run, int lane, float (&v)[kRunValues]) {
  uint4 words[4];  // all loads wait together
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    words[i] = uint4{0, 0, 0, 0};
    if (k < width) peek(&words[i], row + k);
  }
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    await(&words[i], row + run * kRunK + run_element(lane, i));
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) v[4 * i + e] = float_of_bits(word_of(words[i], e));
  }
}
QSPEC_DEVICE void store_run(float* row, int width, int run, int lane, const float (&v)[kRunValues]) {
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    if (k < width) *reinterpret_cast<float4*>(row + k) = float4{v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
  }
}

QSPEC_DEVICE float silu(float x) { return x * reciprocal_fast(1.0f + exp2_fast(x * -1.4426950408889634f)); }

// The row's values before norm and rotation. SiLU·mul: gate | up.
template <bool may_await>
QSPEC_DEVICE void load_source(const RowsSpec& spec, int64_t row, int run, int lane, float (&v)[kRunValues]) {
  if (may_await && spec.awaits) return await_run(spec.input + row * spec.width, spec.width, run, lane, v);
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

// Sums of squares in one order, whoever adds: four neighbours in order, then by a tree the 16 of a row-tile of outputs, and the 32 of these of a run.
QSPEC_DEVICE float four_squares(const float* v) { return fmaf(v[3], v[3], fmaf(v[2], v[2], fmaf(v[1], v[1], v[0] * v[0]))); }
// Of 16 elements, of which each of four lanes has four: neighbours, or lanes that differ by these masks, of which the first leads from the first four to the second.
QSPEC_DEVICE float tile_squares(float four, int first_mask = 1, int second_mask = 2) {
  four += shuffle_xor(four, first_mask);
  return four + shuffle_xor(four, second_mask);
}
// Tiles 8·i + lane / 4 of a run, as its lanes have them.
struct RunSquares {
  float tile[4];
};
QSPEC_DEVICE RunSquares squares_of(const float (&v)[kRunValues]) {
  RunSquares squares;
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) squares.tile[i] = tile_squares(four_squares(v + 4 * i));
  return squares;
}
// Of the whole run. `stride` 4: a tile has four lanes; 1: one, and eight lanes a run.
QSPEC_DEVICE float run_squares(const RunSquares& squares, int stride) {
  float sum = (squares.tile[0] + squares.tile[1]) + (squares.tile[2] + squares.tile[3]);
  QSPEC_UNROLL
  for (int mask = 1; mask < 8; mask *= 2) sum += shuffle_xor(sum, mask * stride);
  return sum;
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

// Elements k … k + 3 (k a multiple of 4) of a row as bf16 x-form.
QSPEC_DEVICE void store_x4(uint8_t* x, RowBlocks blocks, int row, int k, const float (&v)[4]) {
  const uint32_t low = pack_bf16(v[0], v[1]), high = pack_bf16(v[2], v[3]);
  uint8_t* p = x + x_offset(blocks, row, k);
  if (!blocks.is_for_groups()) {
    *reinterpret_cast<uint2*>(p) = uint2{low, high};
    return;
  }
  *reinterpret_cast<uint32_t*>(p) = low;
  *reinterpret_cast<uint32_t*>(p + kWideWordBytes) = high;
}
// The same, posted. Of few rows.
QSPEC_DEVICE void post_x4(uint8_t* x, RowBlocks blocks, int row, int k, const float (&v)[4]) {
  post(x + x_offset(blocks, row, k), uint2{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])});
}
// Zero up to the end of the last tile.
QSPEC_DEVICE void store_bf16(uint8_t* x, RowBlocks blocks, int row, int width, int run, int lane, const float (&v)[kRunValues]) {
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int k = run * kRunK + run_element(lane, i);
    if (k >= (width + 63) / 64 * 64) continue;
    store_x4(x, blocks, row, k, {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]});
  }
}

// Where transformed rows go, in global or shared memory.
struct XPlace {
  uint8_t* data;
  float* scales;
  int32_t* sums;
  float* squares;  // of a norm: [rows][runs] or, in memory, as XForm has them
  bool has_tiles;  // the latter
};

// Codes of a group are 32, 64 or 128 neighbours: 8, 16 or 32 lanes.
QSPEC_DEVICE void store_codes(const XForm& x, const XPlace& place, RowBlocks blocks, int row, int width, int run, int lane, float row_largest,
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
    *reinterpret_cast<uint32_t*>(place.data + code_offset(blocks, row, k)) = word;
    if (k < width && lane % (1 << lanes) == 0) {
      const int at = (k >> x.group_shift) * blocks.columns() + row;
      place.scales[at] = scale, place.sums[at] = sum;
    }
  }
}

// ---- Rows ---------------------------------------------------------------------------------------------------------------------------------

QSPEC_DEVICE int num_row_runs(const RowsSpec& spec) { return (spec.width + kRunK - 1) / kRunK; }

// 1 / rms of a row. `sum`: of the squares of all runs; or of runs lane, lane + 32, …, in order.
QSPEC_DEVICE float factor_of_sum(const RowsSpec& spec, float sum) { return rsqrt_fast(sum / static_cast<float>(spec.width) + spec.eps); }
QSPEC_DEVICE float factor_of(const RowsSpec& spec, float sum) { return factor_of_sum(spec, warp_sum(sum)); }
// By one warp, from the sums of the runs' squares in shared memory; 1 without a norm.
QSPEC_DEVICE float row_factor(const RowsSpec& spec, uint32_t squares) {
  if (spec.source != RowSource::kNorm) return 1.0f;
  const int runs = num_row_runs(spec);
  float sum = 0;
  for (int i = lane_index(); i < runs; i += kWarp) sum += shared_load_float(squares + i * 4);
  return factor_of(spec, sum);
}

// The same of a row a lane, eight neighbours alike, from the squares of its tiles (XForm::squares) in shared memory.
QSPEC_DEVICE float factor_of_tiles(const RowsSpec& spec, SharedPlace squares) {
  constexpr int kTiles = kRunK / kTileN, kLanes = 8;
  const int own = lane_index() % kLanes, tiles = (spec.width + kTileN - 1) / kTileN;
  float sums[4] = {};  // of runs own, own + 8, own + 16, own + 24, and those 32 behind each
  QSPEC_NO_UNROLL
  for (int first = 0; first * kTiles < tiles; first += kLanes) {
    float sum = 0;
    QSPEC_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      RunSquares run{};
      QSPEC_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int tile = (first + i) * kTiles + kLanes * j + own;
        if (tile < tiles) run.tile[j] = shared_load_float(squares + tile * 4);
      }
      const float of_run = run_squares(run, 1);
      if (i == own) sum = of_run;
    }
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] += first / kLanes % 4 == i ? sum : 0.0f;
  }
  float sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);  // as warp_sum()
  QSPEC_UNROLL
  for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  return factor_of_sum(spec, sum);
}

// The factors of some rows from the squares that were left in memory (XForm::squares), by one warp. Eight lanes take a run, so all four a pass; what rows
// of up to 4096 elements need is under way at once.
template <int rows>
struct RowFactors {
  static constexpr int kRunLanes = 8, kPassRuns = kWarp / kRunLanes, kPasses = 2;  // passes that are loaded ahead

  RunSquares ahead[rows][kPasses];

  QSPEC_DEVICE static int first_tile(int pass) { return (pass * kPassRuns + lane_index() / kRunLanes) * (kRunK / kTileN) + lane_index() % kRunLanes; }
  QSPEC_DEVICE static RunSquares load(const RowsSpec& spec, const float* row, int pass) {
    const int first = first_tile(pass);
    RunSquares squares{};
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i)
      if ((first + kRunLanes * i) * kTileN < spec.width) squares.tile[i] = load_l2(row + first + kRunLanes * i);
    return squares;
  }
  // Waits for what wasn't there yet.
  QSPEC_DEVICE static void settle(RunSquares* squares, const float* row, int pass) {
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) {
      uint32_t word = bits_of_float(squares->tile[i]);
      await(&word, row + first_tile(pass) + kRunLanes * i);
      squares->tile[i] = float_of_bits(word);
    }
  }
  // `row(r)`: of row r, or nullptr.
  template <typename Row>
  QSPEC_DEVICE void begin(const RowsSpec& spec, const Row& row) {
    QSPEC_UNROLL
    for (int r = 0; r < rows; ++r)
      QSPEC_UNROLL
      for (int pass = 0; pass < kPasses; ++pass) ahead[r][pass] = row(r) ? load(spec, row(r), pass) : RunSquares{};
  }
  template <bool may_await>
  QSPEC_DEVICE float factor(const RowsSpec& spec, const float* row, int r, bool awaits) const {
    const int lane = lane_index(), passes = (num_row_runs(spec) + kPassRuns - 1) / kPassRuns;
    float sum = 0;  // of runs lane, lane + 32, …
    const auto add = [&](RunSquares squares, int pass) {
      if (may_await && awaits) settle(&squares, row, pass);
      const float run = shuffle_from(run_squares(squares, 1), lane % kPassRuns * kRunLanes);
      if (lane / kPassRuns == pass % kRunLanes) sum += run;
    };
    QSPEC_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) add(ahead[r][pass], pass);
    QSPEC_NO_UNROLL
    for (int pass = kPasses; pass < passes; ++pass) add(load(spec, row, pass), pass);
    return factor_of(spec, sum);
  }
};

// Which rows, and which of their runs, one call transforms, and which of these (row, run) pairs are the calling warp's.
struct RowsTask {
  const int32_t* index;     // rows to read instead of first …, or nullptr
  int first, count;
  int run_begin, run_end;   // runs that are stored; x begins with run_begin
  int begin, stride;
};

QSPEC_DEVICE int64_t source_row(const RowsTask& task, int r) {
  return static_cast<int64_t>(task.index ? load_constant(task.index + task.first + r) : task.first + r);
}

// A run's values, rotated. Adds delta to the source in place first. The norm's factor, 1 / rms, is left to whoever reads the result: it is one
// number a row and everything from here to the end of a product is linear in it, so nothing waits for the row's sum. `squares`: of a norm.
template <bool may_await>
QSPEC_DEVICE void make_run(const RowsSpec& spec, const RowsTask& task, bool has_delta, int r, int run, int lane, float (&v)[kRunValues], RunSquares* squares) {
  const int64_t row = source_row(task, r);
  const bool is_norm = spec.source == RowSource::kNorm;
  float w[kRunValues] = {};  // all loads wait together
  if (is_norm) load_run(spec.norm_weight, spec.width, run, lane, w);
  load_source<may_await>(spec, row, run, lane, v);
  if (has_delta) {
    float d[kRunValues];
    load_run(spec.delta + row * spec.width, spec.width, run, lane, d);
    QSPEC_UNROLL
    for (int j = 0; j < kRunValues; ++j) v[j] += d[j];
    store_run(spec.input + row * spec.width, spec.width, run, lane, v);
  }
  if (is_norm) {
    *squares = squares_of(v);
    QSPEC_UNROLL
    for (int i = 0; i < kRunValues; ++i) v[i] *= w[i];
  }
  rotate_run(v, spec.hadamard_shift, lane);
}

// The largest magnitude of every run, of whole rows that this block alone makes, for one scale a token. Adds delta.
template <int n8, bool may_await>
QSPEC_DEVICE void find_largest(const RowsSpec& spec, const RowsTask& task) {
  const int lane = lane_index(), runs = num_row_runs(spec);
  QSPEC_NO_UNROLL
  for (int i = task.begin; i < task.count * runs; i += task.stride) {
    float v[kRunValues], largest = 0;
    RunSquares squares;
    make_run<may_await>(spec, task, spec.delta != nullptr, i / runs, i % runs, lane, v, &squares);
    QSPEC_UNROLL
    for (int j = 0; j < kRunValues; ++j) largest = max_or_nan(largest, magnitude(v[j]));
    largest = lanes_max(largest, 5);
    if (lane == 0) shared_store_float(kLargestAt + i * 4, largest);
  }
  named_barrier(kBlockBarrier, step_threads<n8>());
}

// What a row becomes, where that is known beforehand.
enum class XKind : uint8_t { kAny, kBf16, kCodes };

// Rows of `spec` into x-form, without the norm's factor (see make_run). The caller synchronises. With one scale a token, and only then, it
// takes all warps of the block and their tasks must be whole rows.
template <int n8, XKind kind = XKind::kAny>
QSPEC_DEVICE void transform_rows(const RowsSpec& spec, const RowsTask& task, const XForm& x, RowBlocks blocks, const XPlace& place) {
  const int lane = lane_index(), runs = num_row_runs(spec);
  const bool is_bf16 = kind == XKind::kBf16 || (kind == XKind::kAny && x.bits == 16), is_per_token = !is_bf16 && x.per_token;
  // A norm needs the squares of all runs, even of those that aren't stored.
  const bool is_whole = spec.source == RowSource::kNorm || is_per_token;
  const int begin = is_whole ? 0 : task.run_begin, each = is_whole ? runs : task.run_end - task.run_begin;
  constexpr bool may_await = may_post<n8>() && kind != XKind::kAny;  // a prologue
  if (is_per_token) find_largest<n8, may_await>(spec, task);
  QSPEC_NO_UNROLL
  for (int i = task.begin; i < task.count * each; i += task.stride) {
    const int r = i / each, run = begin + i - r * each, row = task.first + r;
    float v[kRunValues];
    RunSquares squares{};
    make_run<may_await>(spec, task, spec.delta != nullptr && !is_per_token, r, run, lane, v, &squares);
    if (spec.source == RowSource::kNorm) {
      const float sum = run_squares(squares, 4);
      if (!place.has_tiles && lane == 0) place.squares[row * runs + run] = sum;
      QSPEC_UNROLL
      for (int j = 0; j < 4; ++j)
        if (place.has_tiles && lane % 4 == 0) store_l2(place.squares + (row * runs + run) * (kRunK / kTileN) + 8 * j + lane / 4, squares.tile[j]);
    }
    if (run < task.run_begin || run >= task.run_end) continue;
    const int width = spec.width - task.run_begin * kRunK, local = run - task.run_begin;
    if (is_bf16) {
      store_bf16(place.data, blocks, row, width, local, lane, v);
      continue;
    }
    float largest = 0;
    for (int j = 0; is_per_token && j < runs; ++j) largest = max_or_nan(largest, shared_load_float(kLargestAt + (r * runs + j) * 4));
    store_codes(x, place, blocks, row, width, local, lane, largest, v);
  }
}

// The same into float32 rows [row][width], norm's factor included: whole rows, all warps of the block.
template <int n8>
QSPEC_DEVICE void transform_rows_plain(const RowsSpec& spec, const RowsTask& task, float* output) {
  const int lane = lane_index(), runs = num_row_runs(spec);
  float v[kRunValues];
  RunSquares squares{};
  QSPEC_NO_UNROLL
  for (int pass = 0; pass < 2; ++pass) {
    QSPEC_NO_UNROLL
    for (int i = task.begin; i < task.count * runs; i += task.stride) {
      const int r = i / runs, run = i - r * runs;
      make_run<false>(spec, task, spec.delta != nullptr && pass == 0, r, run, lane, v, &squares);
      if (pass == 0) {
        const float sum = run_squares(squares, 4);
        if (lane == 0) shared_store_float(kSquaresAt + i * 4, sum);
        continue;
      }
      const float factor = row_factor(spec, kSquaresAt + r * runs * 4);
      QSPEC_UNROLL
      for (int j = 0; j < kRunValues; ++j) v[j] *= factor;
      store_run(output + static_cast<int64_t>(task.first + r) * spec.width, spec.width, run, lane, v);
    }
    if (pass == 0) named_barrier(kBlockBarrier, step_threads<n8>());
  }
}

}  // namespace qspec::cuda
