// A linear phase: which block does what, the producer's stream of weight pieces, and the consumers' jobs.
//
// Items are row-tiles, or (gate, up) pairs of them. A block owns a range of items over one part of k. A job is one run of k of one row-tile
// (n8 <= 2) or of two (n8 >= 3: an activation fragment read from shared memory then serves both); warps take jobs in turn. A job leaves its
// sums in a slab; whoever finishes the last job of a unit (a row-tile; a pair) adds its runs in order and stores.
//
// A job's last stage is given back only after its slab is written, and reduced if it was the last of its unit. The producer fills stages in
// order, so while job j writes, every job before j - stages is done and reduced: stages + runs slabs are enough, without further waiting.
#pragma once
#include "gemm/run_product.cuh"
#include "step/row_math.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

// This block's share of a linear.
struct LinearShare {
  int part;
  int item_begin, item_end;
  int run_begin, num_runs;
  int num_units;  // row-tiles, pairs of neighbours, or (gate, up) pairs
  int unit_jobs;  // jobs a unit
  int num_jobs;
};

template <int n8>
constexpr int job_tiles() {
  return n8 >= 3 ? 2 : 1;
}

template <int n8>
QSPEC_DEVICE LinearShare share_of(const LinearSpec& spec, int block) {
  LinearShare s;
  s.part = 0;
  while (block >= spec.part_block[s.part + 1]) ++s.part;
  const int first = spec.part_block[s.part], blocks = spec.part_block[s.part + 1] - first, i = block - first;
  s.item_begin = static_cast<int>(static_cast<int64_t>(spec.num_items) * i / blocks);
  s.item_end = static_cast<int>(static_cast<int64_t>(spec.num_items) * (i + 1) / blocks);
  s.run_begin = spec.part_slice[s.part] * kSliceRuns;
  const int run_end = spec.part_slice[s.part + 1] * kSliceRuns, runs = num_runs(spec.weight.k_tiles);
  s.num_runs = (run_end < runs ? run_end : runs) - s.run_begin;
  const int items = s.item_end - s.item_begin;
  const bool is_pair = spec.epilogue == Epilogue::kSilu;
  s.num_units = is_pair || n8 < 3 ? items : (items + 1) / 2;
  s.unit_jobs = s.num_runs * (is_pair && n8 < 3 ? 2 : 1);
  s.num_jobs = s.num_units * s.unit_jobs;
  return s;
}

// Row-tiles of a job; tile[1] < 0: there is none.
struct Job {
  int unit, run;  // run: within the share
  int tile[2];
};
template <int n8>
QSPEC_DEVICE Job job_at(const LinearSpec& spec, const LinearShare& s, int job) {
  Job j;
  j.unit = job / s.unit_jobs;
  const int within = job - j.unit * s.unit_jobs;
  const int half = spec.weight.n_tiles / 2;
  j.tile[1] = -1;
  if (n8 < 3) {
    const bool is_second = within >= s.num_runs;
    j.run = is_second ? within - s.num_runs : within;
    j.tile[0] = s.item_begin + j.unit + (is_second ? half : 0);
  } else {
    j.run = within;
    const bool is_pair = spec.epilogue == Epilogue::kSilu;
    j.tile[0] = s.item_begin + (is_pair ? j.unit : 2 * j.unit);
    j.tile[1] = is_pair ? j.tile[0] + half : j.tile[0] + 1;
    if (!is_pair && j.tile[1] >= s.item_end) j.tile[1] = -1;
  }
  return j;
}

// ---- Producer -----------------------------------------------------------------------------------------------------------------------

// The producer's end of the ring. All lanes of its warp walk together; lane 0 does the work.
struct RingWriter {
  const StepParams& params;
  const StepShared& shared;
  int lane, stage;
  uint32_t parity;  // of the phase in which a stage was emptied; stages are free at first
  int issued;

  // A piece of zero bytes takes a stage and brings nothing.
  QSPEC_DEVICE void push(const uint8_t* from, uint32_t bytes) {
    while (!barrier_test(shared.empty + stage, parity)) pause();
    ++issued;
    if (lane == 0) {
      barrier_expect(shared.full + stage, bytes);
      if (bytes > 0) bulk_copy(shared.ring + stage * params.stage_bytes, from, bytes, shared.full + stage);
      fence_block();
      store_shared(shared.flags + kIssued, issued);
    }
    if (++stage == params.num_stages) stage = 0, parity ^= 1;
  }
};

// Where the planes of a share's row-tile begin, and how far apart its runs are.
struct TileSource {
  const uint8_t *first, *low;  // dense tiles, or hi with scales; lo
};
QSPEC_DEVICE TileSource tile_source(const DeviceWeight& w, GemmMode mode, int tile, int run_begin) {
  const int64_t tiles = static_cast<int64_t>(tile) * w.k_tiles + run_begin * kRunTiles;
  if (mode == GemmMode::kDense) return {w.dense + tiles * kDenseTileBytes, nullptr};
  return {w.hi + tile * hi_row_tile_bytes(w.k, w.k_tiles, w.group_size) + static_cast<int64_t>(run_begin) * full_run_bytes(w.group_size),
          mode == GemmMode::kHiLo ? w.lo + tiles * kTileBytes : nullptr};
}

// One share's pieces in the order of its jobs: runs, and in each run `count` row-tiles side by side, part by part.
template <int count>
QSPEC_DEVICE void push_runs(RingWriter& ring, const DeviceWeight& w, GemmMode mode, const LinearShare& s, const TileSource (&source)[count], const bool (&exists)[count]) {
  const int run_bytes = mode == GemmMode::kDense ? 0 : full_run_bytes(w.group_size);
  for (int run = 0; run < s.num_runs; ++run) {
    const int tiles = run_tiles(w.k_tiles, s.run_begin + run);
    if (mode == GemmMode::kDense) {
      QSPEC_UNROLL
      for (int part = 0; part < 4; ++part) {
        const int left = tiles - 2 * part, bytes = (left <= 0 ? 0 : left < 2 ? left : 2) * kDenseTileBytes;
        QSPEC_UNROLL
        for (int j = 0; j < count; ++j) ring.push(source[j].first + (run * kRunTiles + 2 * part) * kDenseTileBytes, exists[j] ? bytes : 0);
      }
      continue;
    }
    const uint32_t bytes = tiles == kRunTiles ? run_bytes : tiles * kTileBytes + run_groups(w.k, w.group_size, s.run_begin + run) * kScaleBytes;
    QSPEC_UNROLL
    for (int j = 0; j < count; ++j) ring.push(source[j].first + static_cast<int64_t>(run) * run_bytes, exists[j] ? bytes : 0);
    if (mode != GemmMode::kHiLo) continue;
    QSPEC_UNROLL
    for (int j = 0; j < count; ++j) ring.push(source[j].low + run * kRunCodeBytes, exists[j] ? tiles * kTileBytes : 0);
  }
}

template <int n8>
QSPEC_DEVICE void push_share(RingWriter& ring, const LinearSpec& spec) {
  const LinearShare s = share_of<n8>(spec, block_index());
  const DeviceWeight& w = spec.weight;
  const int half = w.n_tiles / 2;
  const bool is_pair = spec.epilogue == Epilogue::kSilu;
  for (int unit = 0; unit < s.num_units; ++unit) {
    if constexpr (n8 < 3) {
      for (int which = 0; which < (is_pair ? 2 : 1); ++which) {
        const TileSource source[1] = {tile_source(w, spec.mode, s.item_begin + unit + which * half, s.run_begin)};
        const bool exists[1] = {true};
        push_runs<1>(ring, w, spec.mode, s, source, exists);
      }
    } else {
      const int first = s.item_begin + (is_pair ? unit : 2 * unit), second = is_pair ? first + half : first + 1;
      const TileSource source[2] = {tile_source(w, spec.mode, first, s.run_begin), tile_source(w, spec.mode, second, s.run_begin)};
      const bool exists[2] = {true, is_pair || second < s.item_end};
      push_runs<2>(ring, w, spec.mode, s, source, exists);
    }
  }
}

// The weights of all linear phases, as fast as stages become free. The next phase is read while the current one's pieces go out.
template <int n8>
QSPEC_DEVICE void produce_weights(const StepParams& params, const StepShared& shared, bool has_logits) {
  const int lane = lane_index();
  RingWriter ring{params, shared, lane, 0, 1, 0};
  uint4 next = load_constant(reinterpret_cast<const uint4*>(params.phases + params.first_linear) + lane);
  for (int phase = params.first_linear, turn = 0; phase < params.num_phases; ++turn) {
    auto* slot = reinterpret_cast<Phase*>(reinterpret_cast<uint8_t*>(shared.stream) + (turn & 1) * 512);
    reinterpret_cast<uint4*>(slot)[lane] = next;
    sync_warp();
    if (slot->rows != Rows::kTokens && !has_logits) return;
    const int after = slot->next_linear;
    if (after < params.num_phases) next = load_constant(reinterpret_cast<const uint4*>(params.phases + after) + lane);
    push_share<n8>(ring, slot->linear);
    phase = after;
  }
}

// ---- Consumers ----------------------------------------------------------------------------------------------------------------------

// Position in the ring of this block's next piece; every warp keeps the same count.
struct RingPosition {
  int stages;
  QSPEC_DEVICE int stage(uint32_t piece) const { return static_cast<int>(piece % static_cast<uint32_t>(stages)); }
  QSPEC_DEVICE uint32_t parity(uint32_t piece) const { return piece / static_cast<uint32_t>(stages) & 1; }
};

// A barrier tells neighbouring phases apart only, and a warp may be several ahead: first the piece must have been asked for.
QSPEC_DEVICE const uint8_t* wait_for_piece(const StepParams& params, const StepShared& shared, uint32_t piece) {
  const RingPosition ring{params.num_stages};
  const int stage = ring.stage(piece);
  while (load_shared(shared.flags + kIssued) - static_cast<int>(piece) <= 0) pause();
  while (!barrier_test(shared.full + stage, ring.parity(piece))) pause();
  return shared.ring + stage * params.stage_bytes;
}
QSPEC_DEVICE void release_piece(const StepParams& params, const StepShared& shared, uint32_t piece) {
  sync_warp();  // all lanes have read it
  if (lane_index() == 0) barrier_arrive(shared.empty + piece % static_cast<uint32_t>(params.num_stages));
}

// Activations of this share are in shared.x; integer scales and sums behind the codes.
template <GemmMode mode>
QSPEC_DEVICE RunInput run_input(const LinearSpec& spec, const LinearShare& s, const StepShared& shared, const RowBlocks& blocks, int run) {
  if constexpr (!is_integer(mode)) return {shared.x + run * kRunTiles * x_tile_bytes(blocks), nullptr, nullptr, blocks};
  const int tiles = s.num_runs * kRunTiles, groups_a_run = kRunK / spec.weight.group_size, columns = blocks.columns();
  auto* scales = reinterpret_cast<float*>(shared.x + tiles * code_tile_bytes(blocks));
  auto* sums = reinterpret_cast<int32_t*>(scales + s.num_runs * groups_a_run * columns);
  return {shared.x + run * kRunTiles * code_tile_bytes(blocks), scales + run * groups_a_run * columns, sums + run * groups_a_run * columns, blocks};
}

// The job's sums; gives back every piece but the last.
template <GemmMode mode, int n8>
QSPEC_DEVICE void multiply(const StepParams& params, const StepShared& shared, const LinearSpec& spec, const LinearShare& s, const RowBlocks& blocks,
                           const Job& job, uint32_t piece, Accumulator<job_tiles<n8>(), n8>& total) {
  constexpr int tiles = job_tiles<n8>();
  const int lane = lane_index(), run = s.run_begin + job.run, num_tiles = run_tiles(spec.weight.k_tiles, run);
  const RunInput input = run_input<mode>(spec, s, shared, blocks, job.run);
  total.clear();
  const uint8_t* hi[tiles];
  if constexpr (mode == GemmMode::kDense) {
    for (int part = 0; part < 4; ++part, piece += tiles) {
      for (int j = 0; j < tiles; ++j) hi[j] = wait_for_piece(params, shared, piece + j);
      if (tiles == 2 && job.tile[1] < 0) hi[tiles - 1] = hi[0];
      const int count = num_tiles - 2 * part;
      if (count > 0) dense_tiles<tiles, n8>(total, hi, count < 2 ? count : 2, input, 2 * part, lane);
      for (int j = 0; j < tiles; ++j)
        if (part < 3 || j < tiles - 1) release_piece(params, shared, piece + j);
    }
    return;
  }
  const int groups = run_groups(spec.weight.k, spec.weight.group_size, run);
  for (int j = 0; j < tiles; ++j) hi[j] = wait_for_piece(params, shared, piece + j);
  if (tiles == 2 && job.tile[1] < 0) hi[tiles - 1] = hi[0];  // sums that nobody stores
  if constexpr (mode == GemmMode::kHiInt) {
    integer_run<tiles, n8>(total, hi, num_tiles, groups, spec.half_shift, input, lane);
    if (tiles == 2) release_piece(params, shared, piece);
  } else {
    const uint8_t* lo[tiles];
    uint32_t radix2 = 0;
    if constexpr (mode == GemmMode::kHiLo) {
      for (int j = 0; j < tiles; ++j) lo[j] = wait_for_piece(params, shared, piece + tiles + j);
      if (tiles == 2 && job.tile[1] < 0) lo[tiles - 1] = lo[0];
      radix2 = pack_bf16(static_cast<float>(spec.weight.radix), static_cast<float>(spec.weight.radix));
    } else {
      for (int j = 0; j < tiles; ++j) lo[j] = nullptr;
    }
    quantized_run<mode, tiles, n8>(total, hi, lo, num_tiles, groups, spec.half_shift, radix2, input, lane);
    for (int j = 0; j < tiles * pieces_per_run(mode) - 1; ++j) release_piece(params, shared, piece + j);
  }
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
  int rows;

  static constexpr int kTiles = job_tiles<n8>();

  QSPEC_DEVICE float* slab(int job) const {
    return shared.slabs + (job % params.slab_jobs) * slab_floats(kTiles, blocks.columns());
  }

  QSPEC_DEVICE void write_slab(int job, const Accumulator<kTiles, n8>& total) const {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
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
      for (int j = 0; j < count; ++j) sums_of_unit(unit, j, tile[j], first, sums[j]);
      QSPEC_UNROLL
      for (int b = 0; b < kBatch; ++b) {
        const int i = first + b * kWarp, row = i / kTileN, out = i % kTileN;
        const float factor = shuffle_from(row_factor, row & (kWarp - 1));
        if (i >= total) continue;
        if (is_pair) {
          store_silu(spec, blocks, tile[0] * kTileN + out, row, factor, sums[0][b], sums[1][b]);
        } else {
          for (int j = 0; j < count; ++j)
            if (complete >> j & 1) store_output(spec, tile[j] * kTileN + out, row, factor, sums[j][b]);
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

  template <GemmMode mode>
  QSPEC_DEVICE void run_jobs(uint32_t first_piece, int warp, float row_factor) const {
    constexpr int pieces = pieces_per_run(mode) * kTiles;
    for (int job = warp; job < s.num_jobs; job += consumer_warps<n8>()) {
      const Job j = job_at<n8>(spec, s, job);
      const uint32_t piece = first_piece + static_cast<uint32_t>(job) * pieces;
      Accumulator<kTiles, n8> total;
      multiply<mode, n8>(params, shared, spec, s, blocks, j, piece, total);
      write_slab(job, total);
      fence_block();
      sync_warp();
      int before = 0;
      int* counter = shared.units + j.unit % kUnitCounters;
      if (lane_index() == 0) before = atomic_add(counter, 1);
      if (shuffle_from(before, 0) == s.unit_jobs - 1) {
        fence_block();
        if (lane_index() == 0) *counter = 0;
        const Job first = job_at<n8>(spec, s, j.unit * s.unit_jobs);
        const bool is_pair = spec.epilogue == Epilogue::kSilu;
        const int tile[2] = {first.tile[0], is_pair ? first.tile[0] + spec.weight.n_tiles / 2 : first.tile[1]};
        finish_unit(j.unit, tile, tile[1] >= 0 ? 2 : 1, row_factor);
      }
      release_piece(params, shared, piece + pieces - 1);
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
  for (int i = thread * 16; i < tiles * tile_bytes; i += num_threads * 16) copy_async_16(shared.x + i, from + i);
  if (x.bits < 16) {
    const int groups_a_run = kRunK / spec.weight.group_size, columns = blocks.columns(), capacity = s.num_runs * groups_a_run * columns;
    auto* scales = reinterpret_cast<float*>(shared.x + s.num_runs * kRunTiles * code_tile_bytes(blocks));
    auto* sums = reinterpret_cast<int32_t*>(scales + capacity);
    const int begin = s.run_begin * groups_a_run * columns, total = spec.weight.k / spec.weight.group_size * columns;
    for (int i = thread; i < capacity && begin + i < total; i += num_threads) {
      scales[i] = load_l2(x.scales + begin + i);
      sums[i] = load_l2(x.sums + begin + i);
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

// Makes or copies the input of this share, all consumer warps.
template <int n8>
QSPEC_DEVICE void fetch_input(const StepShared& shared, const Phase& phase, const StepBatch& batch, const LinearShare& s, const RowBlocks& blocks, int rows) {
  const LinearSpec& spec = phase.linear;
  if (!spec.has_prologue) return copy_input(phase.x, spec, s, shared, blocks, thread_index(), consumer_warps<n8>() * kWarp);
  XForm x = phase.x;
  x.data = shared.x;
  if (x.bits < 16) {
    const int capacity = s.num_runs * (kRunK / spec.weight.group_size) * blocks.columns();
    x.scales = reinterpret_cast<float*>(shared.x + s.num_runs * kRunTiles * code_tile_bytes(blocks));
    x.sums = reinterpret_cast<int32_t*>(x.scales + capacity);
  }
  const RowsTask task{phase.rows == Rows::kTokensOfLogits ? batch.logit_row_index : nullptr, 0, rows, s.run_begin, s.run_begin + s.num_runs, 0};
  transform_rows(phase.source, task, x, blocks, shared.rows, thread_index() / kWarp, consumer_warps<n8>());
}

// All consumer warps. Returns how many pieces of the ring the phase took.
template <int n8>
QSPEC_DEVICE uint32_t run_linear(const StepParams& params, const StepShared& shared, const Phase& phase, const StepBatch& batch, const RowBlocks& blocks,
                                 uint32_t first_piece) {
  const LinearSpec& spec = phase.linear;
  const int warp = thread_index() / kWarp;
  const LinearShare s = share_of<n8>(spec, block_index());
  const int rows = phase.rows == Rows::kTokens ? batch.rows : batch.logit_rows;
  if (s.num_jobs > 0) {
    fetch_input<n8>(shared, phase, batch, s, blocks, rows);
    named_barrier(kConsumerBarrier, consumer_warps<n8>() * kWarp);
    const float row_factor = factor_of_lane(phase, shared, rows);
    const LinearPhase<n8> linear{params, shared, spec, s, blocks, rows};
    switch (spec.mode) {
      case GemmMode::kDense: linear.template run_jobs<GemmMode::kDense>(first_piece, warp, row_factor); break;
      case GemmMode::kHi: linear.template run_jobs<GemmMode::kHi>(first_piece, warp, row_factor); break;
      case GemmMode::kHiLo: linear.template run_jobs<GemmMode::kHiLo>(first_piece, warp, row_factor); break;
      case GemmMode::kHiInt: linear.template run_jobs<GemmMode::kHiInt>(first_piece, warp, row_factor); break;
    }
  }
  return static_cast<uint32_t>(s.num_jobs * pieces_per_run(spec.mode) * job_tiles<n8>());
}

}  // namespace qspec::cuda
