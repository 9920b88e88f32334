// The small phases: embedding, rope table, rows that many linears read, gathered rows.
#pragma once
#include "step/row_math.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

// Four consecutive elements of a row, k a multiple of 4, of a dense table.
QSPEC_DEVICE void dense_values(const DeviceWeight& w, int row, int k, float (&v)[4]) {
  const int row16 = row % kTileN, k64 = k % kTileK, lane = 4 * (row16 % 8) + k64 % 32 / 8, step = 2 * (k64 / 32) + k64 % 8 / 4;
  const uint8_t* tile = w.dense + (static_cast<int64_t>(row / kTileN) * w.k_tiles + k / kTileK) * kDenseTileBytes;
  const auto* words = reinterpret_cast<const uint32_t*>(tile + step * 512 + lane * 16) + row16 / 8;
  const uint32_t first = load_constant(words), second = load_constant(words + 2);
  v[0] = bf16_low(first), v[1] = bf16_high(first), v[2] = bf16_low(second), v[3] = bf16_high(second);
}
QSPEC_DEVICE uint32_t code_word(const uint8_t* tile, int row16, int k64) {
  const int lane = 4 * (row16 % 8) + k64 % 32 / 8, step = 2 * (k64 / 32) + k64 % 8 / 4;
  return load_constant(reinterpret_cast<const uint32_t*>(tile) + lane * 4 + step);
}
// The same of a quantised one.
QSPEC_DEVICE void quantized_values(const DeviceWeight& w, int row, int k, float (&v)[4]) {
  const int row16 = row % kTileN, half = row16 / 8;
  const int64_t row_tile = row / kTileN;
  const uint8_t* base = w.hi + row_tile * hi_row_tile_bytes(w.k, w.k_tiles, w.group_size);
  const uint32_t pair = load_constant(reinterpret_cast<const uint32_t*>(base + scales_offset(w.k_tiles, w.group_size, k / w.group_size)) + row16 % 8);
  const uint32_t high = code_word(base + codes_offset(w.group_size, k / kTileK), row16, k % kTileK);
  const bool is_nested = w.kind == WeightKind::kNested8;
  const uint32_t low = is_nested ? code_word(w.lo + (row_tile * w.k_tiles + k / kTileK) * kTileBytes, row16, k % kTileK) : 0;
  const float scale = half == 0 ? bf16_low(pair) : bf16_high(pair);
  QSPEC_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int bit = nibble_bit(half, j);
    int code = static_cast<int>(high >> bit & 15u) - 8;
    if (is_nested) code = w.radix * code + static_cast<int>(low >> bit & 15u) - 8;
    v[j] = scale * static_cast<float>(code) / static_cast<float>(w.radix);
  }
}

// A warp a run. A table stored for rotated inputs is rotated back (the rotation is its own inverse).
QSPEC_DEVICE_CALL void embed(const EmbeddingSpec& spec, const StepBatch& batch, int warp, int num_warps) {
  const DeviceWeight& w = spec.table;
  const int lane = lane_index(), runs = (w.k + kRunK - 1) / kRunK;
  int shift = 0;
  while (1 << shift < w.hadamard_block) ++shift;
  for (int i = block_index() * num_warps + warp; i < batch.rows * runs; i += grid_blocks() * num_warps) {
    const int row = i / runs, run = i % runs, token = load_l2(batch.tokens + load_constant(batch.token_index + row));
    float v[kRunValues];
    QSPEC_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int k = run * kRunK + run_element(lane, j);
      float four[4] = {0, 0, 0, 0};
      if (k < w.k_tiles * kTileK) {  // padding is zero
        if (w.kind == WeightKind::kDenseBf16) dense_values(w, token, k, four);
        else if (k < w.k) quantized_values(w, token, k, four);
      }
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) v[4 * j + e] = four[e];
    }
    rotate_run(v, shift, lane);
    store_run(spec.output + static_cast<int64_t>(row) * w.k, w.k, run, lane, v);
  }
}

// cos and sin of position · inverse frequency. The angle's turns are taken off in double: float angles lose the fraction at long contexts.
QSPEC_DEVICE_CALL void fill_rope_table(const RopeTableSpec& spec, const StepBatch& batch, int thread, int num_threads) {
  constexpr double kTurn = 6.283185307179586476925286766559;
  for (int i = block_index() * num_threads + thread; i < batch.rows * spec.half; i += grid_blocks() * num_threads) {
    const double angle = static_cast<double>(load_constant(batch.positions + i / spec.half)) * load_constant(spec.inverse_frequencies + i % spec.half);
    const float rest = static_cast<float>(angle - kTurn * rint(angle / kTurn));
    spec.table[i] = float2{cosf(rest) * spec.attention_factor, sinf(rest) * spec.attention_factor};
  }
}

// Every warp of the grid takes runs of rows; a block whole rows where one number of the row is needed to store any of it.
template <int n8>
QSPEC_DEVICE void run_rows(int index_of_phase) {
  const Phase& phase = phase_at(index_of_phase);
  const RowBlocks blocks = step_params().blocks;
  constexpr int warps = step_warps<n8>();
  const StepBatch& batch = step_batch();
  const int rows = phase.rows == Rows::kTokens ? batch.rows : batch.logit_rows, warp = thread_index() / kWarp;
  const int32_t* index = phase.rows == Rows::kTokensOfLogits ? batch.logit_row_index : nullptr;
  const int runs = num_row_runs(phase.source);
  const XPlace place{phase.x.data, phase.x.scales, phase.x.sums, phase.x.squares, n8 < kWideRowBlocks};
  if (!phase.linear.output && !(phase.x.bits < 16 && phase.x.per_token)) {
    const RowsTask task{index, 0, rows, 0, runs, warp * grid_blocks() + block_index(), warps * grid_blocks()};
    return transform_rows<n8>(phase.source, task, phase.x, blocks, place);
  }
  QSPEC_NO_UNROLL
  for (int row = block_index(); row < rows; row += grid_blocks()) {
    const RowsTask task{index, row, 1, 0, runs, warp, warps};
    if (phase.linear.output) transform_rows_plain<n8>(phase.source, task, phase.linear.output);
    else transform_rows<n8>(phase.source, task, phase.x, blocks, place);
    if (row + grid_blocks() < rows) named_barrier(kBlockBarrier, warps * kWarp);  // the scratch is free again
  }
}

// Float rows of the logits' tokens.
QSPEC_DEVICE_CALL void gather_rows(const Phase& phase, int num_warps) {
  const StepBatch& batch = step_batch();
  const int lane = lane_index(), runs = num_row_runs(phase.source), warp = thread_index() / kWarp;
  for (int i = block_index() * num_warps + warp; i < batch.logit_rows * runs; i += grid_blocks() * num_warps) {
    const int row = i / runs, run = i % runs, width = phase.source.width;
    float v[kRunValues];
    load_run(phase.source.input + static_cast<int64_t>(load_constant(batch.logit_row_index + row)) * width, width, run, lane, v);
    store_run(phase.linear.output + static_cast<int64_t>(row) * width, width, run, lane, v);
  }
}

}  // namespace qspec::cuda
