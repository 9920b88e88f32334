// A linear phase: jobs, the sums of their runs, and what becomes of them.
//
// A block owns a range of items (row-tiles, or (gate, up) pairs of them) over one part of k. A job leaves its sums in a slab; whoever finishes
// the last job of a unit (a row-tile; a pair) adds its runs in order and stores. Slabs are reused in turn, once the unit before is stored.
#pragma once
#include "gemm/run_product.cuh"
#include "step/row_math.cuh"
#include "step/weight_stream.cuh"

namespace qspec::cuda {

// Activations of a share in the region, from run 0 of the share; integer scales and sums behind the codes.
struct ShareInput {
  uint8_t* x;
  float* scales;
  int32_t* sums;
};
QSPEC_DEVICE ShareInput share_input(const LinearSpec& spec, const LinearShare& s, const StepShared& shared, const RowBlocks& blocks) {
  if (!is_integer(spec.mode)) return {shared.region, nullptr, nullptr};
  auto* scales = reinterpret_cast<float*>(shared.region + s.num_runs * kRunTiles * code_tile_bytes(blocks));
  return {shared.region, scales, reinterpret_cast<int32_t*>(scales + s.num_runs * (kRunK / spec.weight.group_size) * blocks.columns())};
}
template <GemmMode mode>
QSPEC_DEVICE PieceInput piece_input(const ShareInput& share, int group_size, const RowBlocks& blocks, int first_tile) {
  if constexpr (!is_integer(mode)) return {share.x + first_tile * x_tile_bytes(blocks), nullptr, nullptr, blocks};
  const int group = first_tile * kTileK / group_size * blocks.columns();
  return {share.x + first_tile * code_tile_bytes(blocks), share.scales + group, share.sums + group, blocks};
}

// A sum over k as the op's value, before what the epilogue adds. `factor`: of the row's norm.
QSPEC_DEVICE float finished(const LinearSpec& spec, int column, float factor, float sum) {
  if (spec.mode == GemmMode::kHiLo) sum /= static_cast<float>(spec.weight.radix);
  sum *= factor;
  return spec.bias ? sum + load_constant(spec.bias + column) : sum;
}
QSPEC_DEVICE void store_output(const LinearSpec& spec, int column, int row, float factor, float sum) {
  if (column >= spec.weight.n) return;
  const float value = finished(spec, column, factor, sum);
  float* p = spec.output + row * spec.output_stride + spec.output_column + column;
  if (spec.epilogue == Epilogue::kAdd) add_to(p, value);
  else *p = value;
}
// silu(gate) · up of element `k` of the product: float rows, or bf16 x-form.
QSPEC_DEVICE void store_silu(const LinearSpec& spec, const RowBlocks& blocks, int k, int row, float factor, float gate, float up) {
  const int width = spec.weight.n / 2;
  if (k >= width) return;
  const float value = silu(finished(spec, k, factor, gate)) * finished(spec, width + k, factor, up);
  if (spec.out_x == nullptr) {
    spec.output[static_cast<int64_t>(row) * width + k] = value;
  } else {
    *reinterpret_cast<uint16_t*>(spec.out_x + x_offset(blocks, row, k)) = static_cast<uint16_t>(pack_bf16(value, 0.0f));
  }
}

// Sums of one job in its slab: [tile][column][16 outputs]; every second pair of columns has its halves exchanged, against bank conflicts.
QSPEC_HOST_DEVICE constexpr int slab_floats(int tiles, int columns) { return tiles * columns * kTileN; }
QSPEC_DEVICE int slab_place(int column, int out) { return column * kTileN + (out ^ (column << 2 & 8)); }

// Sum of `count` consecutive runs of a share that begins at a slice: runs in a slice in order, then slices in order. `at(run)`.
template <typename At>
QSPEC_DEVICE float sum_of_runs(int count, const At& at) {
  float result = 0;
  for (int slice = 0; slice < count; slice += kSliceRuns) {
    float sum = at(slice);
    for (int run = slice + 1; run < slice + kSliceRuns && run < count; ++run) sum += at(run);
    result = slice == 0 ? sum : result + sum;
  }
  return result;
}

template <int n8>
struct LinearPhase {
  const StepParams& params;
  const StepShared& shared;
  const LinearSpec& spec;
  const LinearShare& s;
  const RowBlocks& blocks;
  ShareInput input;
  float* slabs;
  int rows;
  int turn;  // number of the phase: tells its units from another's

  static constexpr int kTiles = job_tiles<n8>(), kWarps = step_warps<n8>();

  QSPEC_DEVICE float* slab(int job) const { return slabs + job % params.slab_jobs * slab_floats(kTiles, blocks.columns()); }
  QSPEC_DEVICE int stamp(int unit) const { return turn << 16 | (unit + 1); }

  QSPEC_DEVICE void write_slab(int job, const Accumulator<kTiles, n8>& total) const {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
    if (job >= params.slab_jobs) {  // the slab's last unit must have been stored
      const int unit = (job - params.slab_jobs) / s.unit_jobs;
      while (load_shared(shared.reduced + unit % kUnitCounters) != stamp(unit)) pause();
    }
    float* p = slab(job);
    QSPEC_UNROLL
    for (int j = 0; j < kTiles; ++j)
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * c + 2 * t + (i & 1);
          if (n8 > 1 || column < blocks.rows) p[slab_place(j * blocks.columns() + column, g + 8 * (i >> 1))] = total.value[j][c][i];
        }
  }

  // Sum over runs [begin, begin + count) of this share, tile `j` of unit `unit`.
  QSPEC_DEVICE float unit_sum(int unit, int j, int begin, int count, int row, int out) const {
    const int first = unit * s.unit_jobs + (n8 < 3 ? j * s.num_runs : 0) + begin;
    const int at = slab_place((n8 < 3 ? 0 : j) * blocks.columns() + row, out);
    return sum_of_runs(count, [&](int run) { return slab(first + run)[at]; });
  }
  QSPEC_DEVICE float* partial(int slice, int row, int tile, int out) const {
    return params.workspace.partials + (static_cast<int64_t>(slice) * rows + row) * spec.weight.n_tiles * kTileN + tile * kTileN + out;
  }
  // This share has only some slices of k: their sums go to the workspace.
  QSPEC_DEVICE void share_slices(int unit, int j, int tile) const {
    for (int slice = 0; slice * kSliceRuns < s.num_runs; ++slice) {
      const int begin = slice * kSliceRuns, count = s.num_runs - begin < kSliceRuns ? s.num_runs - begin : kSliceRuns;
      for (int i = lane_index(); i < rows * kTileN; i += kWarp)
        store_l2(partial(spec.part_slice[s.part] + slice, i / kTileN, tile, i % kTileN), unit_sum(unit, j, begin, count, i / kTileN, i % kTileN));
    }
  }
  // Slices of up to kBatch outputs of this lane, all loads under way at once.
  static constexpr int kBatch = 4;
  QSPEC_DEVICE void sums_of_slices(int tile, int first, float (&sums)[kBatch]) const {
    const int slices = num_slices(spec.weight.k_tiles);
    for (int slice = 0; slice < slices; ++slice) {
      float next[kBatch];
      QSPEC_UNROLL
      for (int b = 0; b < kBatch; ++b) {
        const int i = first + b * kWarp;
        next[b] = i < rows * kTileN ? load_l2(partial(slice, i / kTileN, tile, i % kTileN)) : 0;
      }
      QSPEC_UNROLL
      for (int b = 0; b < kBatch; ++b) sums[b] = slice == 0 ? next[b] : sums[b] + next[b];
    }
  }
  QSPEC_DEVICE void sums_of_unit(int unit, int j, int tile, int first, float (&sums)[kBatch]) const {
    if (spec.num_parts > 1) return sums_of_slices(tile, first, sums);
    QSPEC_UNROLL
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kWarp;
      if (i < rows * kTileN) sums[b] = unit_sum(unit, j, 0, s.num_runs, i / kTileN, i % kTileN);
    }
  }

  // This warp wrote the unit's last slab. `tile`: the unit's `count` row-tiles.
  QSPEC_DEVICE void finish_unit(int unit, const int (&tile)[2], int count, float row_factor) const {
    const bool is_pair = spec.epilogue == Epilogue::kSilu;
    int complete = 3;  // bit j: tile j may be finished here
    if (spec.num_parts > 1) {
      for (int j = 0; j < count; ++j) share_slices(unit, j, tile[j]);
      complete = complete_items(tile[0], is_pair ? 1 : count);
      if (complete == 0) return;
    }
    const int total = rows * kTileN;
    for (int base = 0; base < total; base += kBatch * kWarp) {
      const int first = base + lane_index();
      float sums[2][kBatch];
      QSPEC_UNROLL
      for (int j = 0; j < 2; ++j)
        if (j < count) sums_of_unit(unit, j, tile[j], first, sums[j]);
      QSPEC_UNROLL
      for (int b = 0; b < kBatch; ++b) {
        const int i = first + b * kWarp, row = i / kTileN, out = i % kTileN;
        const float factor = shuffle_from(row_factor, row & (kWarp - 1));
        if (i >= total) continue;
        if (is_pair) {
          store_silu(spec, blocks, tile[0] * kTileN + out, row, factor, sums[0][b], sums[1][b]);
        } else {
          QSPEC_UNROLL
          for (int j = 0; j < 2; ++j)
            if (j < count && (complete >> j & 1)) store_output(spec, tile[j] * kTileN + out, row, factor, sums[j][b]);
        }
      }
    }
  }

  // The parts of k that an item has count up; whoever comes last sees everybody's sums. Parts may pair row-tiles differently, so each counts
  // for itself. Bit j: item + j is complete.
  QSPEC_DEVICE int complete_items(int item, int count) const {
    sync_warp();
    int before = 0;
    if (lane_index() < count) {
      fence_device();
      int* counter = params.workspace.counters + item + lane_index();
      before = atomic_add(counter, 1);
      if (before == spec.num_parts - 1) *counter = 0;
      fence_device();
    }
    int complete = 0;
    for (int j = 0; j < count; ++j) complete |= static_cast<int>(shuffle_from(before, j) == spec.num_parts - 1) << j;
    return complete;
  }

  // A job's product, piece by piece.
  template <GemmMode mode>
  QSPEC_DEVICE void multiply(WeightStream<n8>& stream, const Job& job, uint32_t radix2, Accumulator<kTiles, n8>& total) const {
    const int lane = lane_index(), tiles = run_tiles(spec.weight.k_tiles, s.run_begin + job.run), parts = parts_of_run(mode, tiles);
    const bool has_second = kTiles == 2 && job.tile[1] >= 0;
    total.clear();
    QSPEC_NO_UNROLL
    for (int part = 0; part < parts; ++part) {
      const uint8_t* hi[kTiles];
      const uint8_t* lo[kTiles];
      hi[0] = stream.take(), lo[0] = nullptr;
      if constexpr (kTiles == 2) hi[kTiles - 1] = has_second ? stream.take() : hi[0], lo[kTiles - 1] = nullptr;  // a missing one's sums are never stored
      if constexpr (mode == GemmMode::kDense) {
        dense_tile<kTiles, n8>(total, hi, piece_input<mode>(input, 0, blocks, job.run * kRunTiles + part), lane);
      } else {
        if constexpr (mode == GemmMode::kHiLo) {
          lo[0] = stream.take();
          if constexpr (kTiles == 2) lo[kTiles - 1] = has_second ? stream.take() : lo[0];
        }
        const int first = job.run * kRunTiles + part * kPieceTiles, absolute = s.run_begin * kRunTiles + first;
        const int count = piece_tiles(spec.weight.k_tiles, absolute), groups = piece_groups(spec.weight.k, spec.weight.group_size, absolute);
        const PieceInput x = piece_input<mode>(input, spec.weight.group_size, blocks, first);
        if constexpr (mode == GemmMode::kHiInt) integer_piece<kTiles, n8>(total, hi, count, groups, spec.half_shift, x, lane);
        else quantized_piece<mode, kTiles, n8>(total, hi, lo, count, groups, spec.half_shift, radix2, x, lane);
      }
      stream.give_back((has_second ? 2 : 1) * (mode == GemmMode::kHiLo ? 2 : 1));
    }
  }

  template <GemmMode mode>
  QSPEC_DEVICE void run_jobs(WeightStream<n8>& stream, int warp, float row_factor) const {
    const bool is_pair = spec.epilogue == Epilogue::kSilu;
    const float radix = static_cast<float>(spec.weight.radix);
    const uint32_t radix2 = pack_bf16(radix, radix);
    JobCursor at;
    for (at.begin(s, warp); at.job < s.num_jobs; at.advance(s, kWarps)) {
      const Job job = job_at<n8>(at, s, is_pair, spec.weight.n_tiles);
      Accumulator<kTiles, n8> total;
      multiply<mode>(stream, job, radix2, total);
      write_slab(at.job, total);
      sync_warp();
      int before = 0;
      int* counter = shared.units + at.unit % kUnitCounters;
      if (lane_index() == 0) {
        fence_block();
        before = atomic_add(counter, 1);
      }
      if (shuffle_from(before, 0) != s.unit_jobs - 1) continue;
      fence_block();
      const int first = s.item_begin + (is_pair || n8 < 3 ? at.unit : 2 * at.unit);
      const int second = is_pair ? first + spec.weight.n_tiles / 2 : n8 < 3 || first + 1 >= s.item_end ? -1 : first + 1;
      const int tile[2] = {first, second};
      finish_unit(at.unit, tile, second >= 0 ? 2 : 1, row_factor);
      sync_warp();
      if (lane_index() == 0) {
        *counter = 0;
        fence_block();
        store_shared(shared.reduced + at.unit % kUnitCounters, stamp(at.unit));
      }
    }
  }
};

// Copies this share's activations to shared memory.
QSPEC_DEVICE void copy_input(const XForm& x, const LinearSpec& spec, const LinearShare& s, const StepShared& shared, const RowBlocks& blocks,
                             int thread, int num_threads) {
  const int first = s.run_begin * kRunTiles;
  const int tiles = spec.weight.k_tiles - first < s.num_runs * kRunTiles ? spec.weight.k_tiles - first : s.num_runs * kRunTiles;
  const int tile_bytes = x.bits == 16 ? x_tile_bytes(blocks) : code_tile_bytes(blocks);
  const uint8_t* from = x.data + static_cast<int64_t>(first) * tile_bytes;
  const ShareInput to = share_input(spec, s, shared, blocks);
  for (int i = thread * 16; i < tiles * tile_bytes; i += num_threads * 16) copy_async_16(to.x + i, from + i);
  if (x.bits < 16) {
    const int groups_a_run = kRunK / spec.weight.group_size, columns = blocks.columns(), capacity = s.num_runs * groups_a_run * columns;
    const int begin = s.run_begin * groups_a_run * columns, total = spec.weight.k / spec.weight.group_size * columns;
    for (int i = thread; i < capacity && begin + i < total; i += num_threads) {
      to.scales[i] = load_l2(x.scales + begin + i);
      to.sums[i] = load_l2(x.sums + begin + i);
    }
  }
  commit_async();
  wait_async<0>();
}

// 1 / rms of row `lane` of the linear's input, 1 where it has no norm.
QSPEC_DEVICE float factor_of_lane(const Phase& phase, const StepShared& shared, int rows) {
  const int lane = lane_index();
  if (lane >= rows) return 1.0f;
  if (phase.linear.has_prologue) return row_factor(phase.source, shared.rows.squares + lane * ((phase.source.width + kRunK - 1) / kRunK));
  return phase.x.factors ? load_l2(phase.x.factors + lane) : 1.0f;
}

// Makes or copies the input of this share, all warps.
template <int n8>
QSPEC_DEVICE void fetch_input(const StepShared& shared, const Phase& phase, const StepBatch& batch, const LinearShare& s, const RowBlocks& blocks, int rows) {
  const LinearSpec& spec = phase.linear;
  if (!spec.has_prologue) return copy_input(phase.x, spec, s, shared, blocks, thread_index(), step_threads<n8>());
  const ShareInput to = share_input(spec, s, shared, blocks);
  XForm x = phase.x;
  x.data = to.x, x.scales = to.scales, x.sums = to.sums;
  const RowsTask task{phase.rows == Rows::kTokensOfLogits ? batch.logit_row_index : nullptr, 0, rows, s.run_begin, s.run_begin + s.num_runs, 0};
  transform_rows(phase.source, task, x, blocks, shared.rows, thread_index() / kWarp, step_warps<n8>());
}

template <int n8>
QSPEC_DEVICE void run_linear(const StepParams& params, const StepShared& shared, const Phase& phase, const StepBatch& batch, const RowBlocks& blocks,
                             WeightStream<n8>& stream, int index) {
  const LinearSpec& spec = phase.linear;
  const LinearShare s = shared.stream[phase.linear_index % kStreamWindow].share;
  if (s.num_jobs == 0) return;
  const int warp = thread_index() / kWarp, rows = phase.rows == Rows::kTokens ? batch.rows : batch.logit_rows;
  fetch_input<n8>(shared, phase, batch, s, blocks, rows);
  named_barrier(kConsumerBarrier, step_threads<n8>());
  const float row_factor = factor_of_lane(phase, shared, rows);
  auto* slabs = reinterpret_cast<float*>(shared.region + params.x_bytes);
  const LinearPhase<n8> linear{params, shared, spec, s, blocks, share_input(spec, s, shared, blocks), slabs, rows, index};
  switch (spec.mode) {
    case GemmMode::kDense: linear.template run_jobs<GemmMode::kDense>(stream, warp, row_factor); break;
    case GemmMode::kHi: linear.template run_jobs<GemmMode::kHi>(stream, warp, row_factor); break;
    case GemmMode::kHiLo: linear.template run_jobs<GemmMode::kHiLo>(stream, warp, row_factor); break;
    case GemmMode::kHiInt: linear.template run_jobs<GemmMode::kHiInt>(stream, warp, row_factor); break;
  }
}

}  // namespace qspec::cuda
