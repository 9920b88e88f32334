// A linear phase: jobs, the sums of their runs, and what becomes of them.
//
// A block owns a range of items (row-tiles, or (gate, up) pairs of them) over one part of k. A job leaves its sums in a slab; when the last job
// of a unit (a row-tile; a pair) has, a team of warps adds its runs in order and stores. Teams take units in turn, each between two jobs of its
// own: were it left to whoever came last, that warp would be last again in every unit. Slabs are reused in turn, once their unit is stored.
#pragma once
#include "gemm/run_product.cuh"
#include "step/row_math.cuh"
#include "step/weight_stream.cuh"

namespace qspec::cuda {

// Activations of a share in the region, from run 0 of the share: offsets; integer scales and sums behind the codes.
struct ShareInput {
  uint32_t x, scales, sums;
};
QSPEC_DEVICE ShareInput share_input(const StreamShape& s, int group_size, uint32_t region, RowBlocks blocks) {
  if (!is_integer(s.mode)) return {region, 0, 0};
  const uint32_t scales = region + s.num_runs * kRunTiles * code_tile_bytes(blocks);
  return {region, scales, scales + s.num_runs * (kRunK / group_size) * blocks.columns() * 4};
}
template <GemmMode mode>
QSPEC_DEVICE PieceInput piece_input(const ShareInput& share, int half_shift, RowBlocks blocks, int first_tile) {
  if constexpr (!is_integer(mode)) return {share.x + first_tile * x_tile_bytes(blocks), 0, 0, blocks};
  const int group = (2 * first_tile >> half_shift) * blocks.columns() * 4;
  return {share.x + first_tile * code_tile_bytes(blocks), share.scales + group, share.sums + group, blocks};
}

// ---- What becomes of a sum ---------------------------------------------------------------------------------------------------------------

// Four neighbouring outputs of a row: sums over k in, the op's values out. `factor`: of the row's norm.
QSPEC_DEVICE void finish_sums(const LinearSpec& spec, int column, float factor, float (&v)[4]) {
  const float scale = spec.mode == GemmMode::kHiLo ? factor / static_cast<float>(spec.weight.radix) : factor;
  QSPEC_UNROLL
  for (int e = 0; e < 4; ++e) {
    v[e] *= scale;
    if (spec.bias && column + e < spec.weight.n) v[e] += load_constant(spec.bias + column + e);
  }
}
QSPEC_DEVICE void store_output(const LinearSpec& spec, int column, int row, float factor, float (&v)[4]) {
  finish_sums(spec, column, factor, v);
  float* p = spec.output + row * spec.output_stride + spec.output_column + column;
  QSPEC_UNROLL
  for (int e = 0; e < 4; ++e) {
    if (column + e >= spec.weight.n) return;
    if (spec.epilogue == Epilogue::kAdd) add_to(p + e, v[e]);
    else p[e] = v[e];
  }
}
// silu(gate) · up of elements k … k + 3 of the product (its width is a multiple of 16): float rows, or bf16 x-form.
QSPEC_DEVICE void store_silu(const LinearSpec& spec, RowBlocks blocks, int k, int row, float factor, float (&gate)[4], float (&up)[4]) {
  const int width = spec.weight.n / 2;
  finish_sums(spec, k, factor, gate);
  finish_sums(spec, width + k, factor, up);
  QSPEC_UNROLL
  for (int e = 0; e < 4; ++e) gate[e] = silu(gate[e]) * up[e];
  if (spec.out_x == nullptr) *reinterpret_cast<float4*>(spec.output + static_cast<int64_t>(row) * width + k) = float4{gate[0], gate[1], gate[2], gate[3]};
  else *reinterpret_cast<uint2*>(spec.out_x + x_offset(blocks, row, k)) = uint2{pack_bf16(gate[0], gate[1]), pack_bf16(gate[2], gate[3])};
}

// Sums of one job in its slab: [tile][column][16 outputs]; every second pair of columns has its halves exchanged, against bank conflicts.
QSPEC_HOST_DEVICE constexpr int slab_bytes(int tiles, int columns) { return tiles * columns * kTileN * 4; }
QSPEC_DEVICE int slab_place(int column, int out) { return (column * kTileN + (out ^ (column << 2 & 8))) * 4; }

// The sums of finished units, by a team: warp by warp 32 quads, lane by lane one quad: four neighbouring outputs of a row.
template <int n8>
struct UnitSums {
  const LinearSpec& spec;
  const StreamShape& s;
  const StepWorkspace& workspace;
  RowBlocks blocks;
  uint32_t slabs;
  int slab_jobs, rows, member;

  static constexpr int kQuads = kTileN / 4;

  QSPEC_DEVICE int quad() const { return member * kWarp + lane_index(); }
  QSPEC_DEVICE bool has_quad() const { return quad() < rows * kQuads; }

  // Runs [begin, begin + count) of a unit's row-tile j, whose first job is in slab `first`: runs of a slice in order, then slices in order.
  QSPEC_DEVICE void sum_runs(int first, int j, int begin, int count, float (&result)[4]) const {
    const uint32_t bytes = slab_bytes(job_tiles<n8>(), blocks.columns()), end = slabs + slab_jobs * bytes;
    int slab = first + begin + (n8 < 3 ? j * s.num_runs : 0);
    while (slab >= slab_jobs) slab -= slab_jobs;
    uint32_t p = slabs + slab * bytes;
    const uint32_t at = slab_place((n8 < 3 ? 0 : j) * blocks.columns() + quad() / kQuads, quad() % kQuads * 4);
    QSPEC_NO_UNROLL
    for (int base = 0; base < count; base += kSliceRuns) {
      uint4 v[kSliceRuns];
      QSPEC_UNROLL
      for (int i = 0; i < kSliceRuns; ++i) {
        v[i] = uint4{0, 0, 0, 0};
        if (base + i < count) v[i] = shared_load_16(p + at);
        p += bytes;
        if (p == end) p = slabs;
      }
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) {
        float sum = float_of_bits(word_of(v[0], e));
        QSPEC_UNROLL
        for (int i = 1; i < kSliceRuns; ++i)
          if (base + i < count) sum += float_of_bits(word_of(v[i], e));
        result[e] = base == 0 ? sum : result[e] + sum;
      }
    }
  }
  QSPEC_DEVICE float4* partial(int slice, int tile) const {
    return reinterpret_cast<float4*>(workspace.partials + (static_cast<int64_t>(slice) * rows + quad() / kQuads) * spec.weight.n_tiles * kTileN + tile * kTileN) +
           quad() % kQuads;
  }
  // This share has only some slices of k: their sums go to the workspace.
  QSPEC_DEVICE void share_slices(int first, int j, int tile) const {
    QSPEC_NO_UNROLL
    for (int begin = 0; begin < s.num_runs; begin += kSliceRuns) {
      const int count = s.num_runs - begin < kSliceRuns ? s.num_runs - begin : kSliceRuns;
      float sum[4];
      sum_runs(first, j, begin, count, sum);
      store_l2(partial((s.run_begin + begin) / kSliceRuns, tile), float4{sum[0], sum[1], sum[2], sum[3]});
    }
  }
  // The parts of k that an item has count up, team member by member; whoever comes last sees everybody's sums. Parts may pair row-tiles
  // differently, so each counts for itself. Bit j: item + j is complete.
  QSPEC_DEVICE int complete_items(int item, int count) const {
    sync_warp();
    int before = 0;
    if (lane_index() < count) {
      fence_device();
      int* counter = workspace.counters + (item + lane_index()) * kMaxTeam + member;
      before = atomic_add(counter, 1);
      if (before == spec.num_parts - 1) *counter = 0;
      fence_device();
    }
    int complete = 0;
    for (int j = 0; j < count; ++j) complete |= static_cast<int>(shuffle_from(before, j) == spec.num_parts - 1) << j;
    return complete;
  }
  QSPEC_DEVICE void sum_slices(int tile, float (&result)[4]) const {
    const int slices = num_slices(spec.weight.k_tiles);
    QSPEC_NO_UNROLL
    for (int base = 0; base < slices; base += 4) {
      float4 v[4];  // all loads wait together
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        v[i] = float4{0, 0, 0, 0};
        if (base + i < slices) v[i] = load_l2(partial(base + i, tile));
      }
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (base + i >= slices) break;
        const float four[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
        QSPEC_UNROLL
        for (int e = 0; e < 4; ++e) result[e] = base + i == 0 ? four[e] : result[e] + four[e];
      }
    }
  }

  // The unit of the row-tiles `tile` (a second one, or -1), whose first job is in slab `first`.
  QSPEC_DEVICE void finish(int first, int tile, int second) const {
    const int count = second >= 0 ? 2 : 1;
    int complete = 3;  // bit j: tile j may be finished here
    if (spec.num_parts > 1) {
      QSPEC_NO_UNROLL
      for (int j = 0; j < count && has_quad(); ++j) share_slices(first, j, j == 0 ? tile : second);
      complete = complete_items(tile, s.is_pair ? 1 : count);
    }
    if (!has_quad()) return;
    const int row = quad() / kQuads, within = quad() % kQuads * 4;
    const float factor = shared_load_float(kFactorsAt + row * 4);
    float sums[4] = {}, before[4] = {};
    QSPEC_NO_UNROLL
    for (int j = 0; j < count; ++j) {
      if (!s.is_pair && !(complete >> j & 1)) continue;
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) before[e] = sums[e];
      const int of = j == 0 ? tile : second;
      if (spec.num_parts > 1) sum_slices(of, sums);
      else sum_runs(first, j, 0, s.num_runs, sums);
      if (!s.is_pair) store_output(spec, of * kTileN + within, row, factor, sums);
    }
    if (s.is_pair && complete != 0) store_silu(spec, blocks, tile * kTileN + within, row, factor, before, sums);
  }
};

// ---- Jobs ------------------------------------------------------------------------------------------------------------------------------------

template <int n8>
struct LinearPhase {
  const StepParams& params;
  const LinearSpec& spec;
  const StreamShape& s;
  RowBlocks blocks;
  ShareInput input;
  uint32_t slabs;
  int rows;
  int turn;  // number of the phase: tells its units from another's

  static constexpr int kTiles = job_tiles<n8>(), kWarps = step_warps<n8>();
  static constexpr int kTeam = n8 <= 2 ? n8 : kMaxTeam, kTeams = kWarps / kTeam;  // 32 quads a warp: 8 rows

  QSPEC_DEVICE uint32_t stamp(int unit) const { return static_cast<uint32_t>(turn << 16 | (unit + 1)); }
  QSPEC_DEVICE static uint32_t arrived_at(int unit) { return kUnitsAt + unit % kUnitCounters * 4; }
  QSPEC_DEVICE static uint32_t stored_at(int unit) { return kStoredAt + unit % kUnitCounters * 4; }
  QSPEC_DEVICE static uint32_t reduced_at(int unit) { return kReducedAt + unit % kUnitCounters * 4; }

  QSPEC_DEVICE void write_slab(uint32_t slab, const Accumulator<kTiles, n8>& total) const {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
    QSPEC_UNROLL
    for (int j = 0; j < kTiles; ++j)
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * c + 2 * t + (i & 1);
          if (n8 > 1 || column < blocks.rows) shared_store_float(slab + slab_place(j * blocks.columns() + column, g + 8 * (i >> 1)), total.value[j][c][i]);
        }
  }

  // A job's product, part by part.
  template <GemmMode mode>
  QSPEC_DEVICE void multiply(WeightStream<n8>& stream, int run, bool has_second, Accumulator<kTiles, n8>& total) const {
    constexpr int kPart = part_tiles(mode);
    const int lane = lane_index(), half_shift = spec.half_shift;
    const uint32_t part_bytes = s.part_bytes, tile_bytes = has_second ? part_bytes + low_part_bytes(mode) : 0;  // a missing row-tile's sums are never stored
    const int end = s.tiles - run * kRunTiles < kRunTiles ? s.tiles : (run + 1) * kRunTiles;
    QSPEC_NO_UNROLL
    for (int first = run * kRunTiles; first < end; first += kPart) {
      const uint32_t stage = stream.take();
      QSPEC_NO_UNROLL
      for (int tile = 0; tile < kPart && first + tile < end; tile += mode == GemmMode::kDense ? 1 : kPieceTiles) {
        uint32_t hi[kTiles], lo[kTiles];
        QSPEC_UNROLL
        for (int j = 0; j < kTiles; ++j) hi[j] = stage + j * tile_bytes, lo[j] = hi[j] + part_bytes;
        if constexpr (mode == GemmMode::kDense) {
          QSPEC_UNROLL
          for (int j = 0; j < kTiles; ++j) hi[j] += tile * kDenseTileBytes;
          dense_tile<kTiles, n8>(total, hi, piece_input<mode>(input, 0, blocks, first + tile), lane);
        } else {
          if constexpr (kPart > kPieceTiles) {
            QSPEC_UNROLL
            for (int j = 0; j < kTiles; ++j) hi[j] += tile == 0 ? 0 : part_bytes / (kPart / kPieceTiles);
          }
          const int at = first + tile, rest = s.k - at * kTileK, count = end - at < kPieceTiles ? end - at : kPieceTiles;
          const bool is_whole = rest >= kPieceK;
          const int groups = is_whole ? 8 >> half_shift : (rest + (32 << half_shift) - 1) / (32 << half_shift);
          const PieceInput x = piece_input<mode>(input, half_shift, blocks, at);
          if constexpr (mode == GemmMode::kHiInt) integer_piece<kTiles, n8>(total, hi, is_whole, count, groups, half_shift, x, lane);
          else quantized_piece<mode, kTiles, n8>(total, hi, lo, is_whole, count, groups, half_shift, spec.weight.radix, x, lane);
        }
      }
      stream.give_back();
    }
  }

  // The same in all lanes.
  QSPEC_DEVICE static uint32_t counter(uint32_t at) { return static_cast<uint32_t>(shuffle_from(static_cast<int>(shared_load_4(at)), 0)); }

  QSPEC_DEVICE void run_jobs(WeightStream<n8>& stream) const {
    const uint32_t bytes = slab_bytes(kTiles, blocks.columns());
    const int slab_jobs = params.slab_jobs, team = stream.warp / kTeam, units = s.num_jobs / s.unit_jobs;
    int mine = team;                             // unit that this warp's team stores next
    int mine_slab = team * s.unit_jobs % slab_jobs;  // where its first job is
    const auto store_mine = [&]() {
      if (mine >= units || counter(arrived_at(mine)) != static_cast<uint32_t>(s.unit_jobs)) return false;
      store_unit(mine, mine_slab, stream.warp % kTeam);
      mine += kTeams, mine_slab = (mine_slab + kTeams * s.unit_jobs) % slab_jobs;
      return true;
    };
    JobCursor at;
    int slab = stream.warp;  // job modulo slab_jobs
    QSPEC_NO_UNROLL
    for (at.begin(s, stream.warp);; at.advance(s, kWarps), slab += kWarps) {
      const bool has_job = at.job < s.num_jobs;
      if (has_job) {
        const bool has_second = kTiles == 2 && has_second_tile(s, at.unit);
        const int run = n8 < 3 ? at.run(s) : at.within;
        Accumulator<kTiles, n8> total;
        total.clear();
        switch (s.mode) {
          case GemmMode::kDense: multiply<GemmMode::kDense>(stream, run, has_second, total); break;
          case GemmMode::kHi: multiply<GemmMode::kHi>(stream, run, has_second, total); break;
          case GemmMode::kHiLo: multiply<GemmMode::kHiLo>(stream, run, has_second, total); break;
          case GemmMode::kHiInt: multiply<GemmMode::kHiInt>(stream, run, has_second, total); break;
        }
        while (slab >= slab_jobs) slab -= slab_jobs;
        if (at.job >= slab_jobs) {  // the slab's last unit must have been stored
          const int before = (at.job - slab_jobs) / s.unit_jobs;
          while (counter(reduced_at(before)) != stamp(before))
            if (!store_mine()) pause();
        }
        write_slab(slabs + slab * bytes, total);
        sync_warp();
        if (lane_index() == 0) {
          fence_block();
          shared_add(arrived_at(at.unit), 1);
        }
      }
      // Between jobs, and once there are no more, the team's own units.
      if (!store_mine() && !has_job) {
        if (mine >= units) return;
        pause();
      }
    }
  }

  // The sums of a complete unit, whose first job is in slab `first`: this member's share.
  QSPEC_DEVICE void store_unit(int unit, int first, int member) const {
    fence_block();
    const int tile = s.item_begin + (s.is_pair || n8 < 3 ? unit : 2 * unit);
    const bool has_two = s.is_pair || (n8 >= 3 && has_second_tile(s, unit));
    UnitSums<n8>{spec, s, params.workspace, blocks, slabs, params.slab_jobs, rows, member}.finish(first, tile, has_two ? tile + s.second_tile : -1);
    sync_warp();
    if (lane_index() == 0) {
      fence_block();
      if (kTeam > 1 && shared_add(stored_at(unit), 1) != kTeam - 1) return;
      shared_store_4(stored_at(unit), 0);
      shared_store_4(arrived_at(unit), 0);
      fence_block();
      shared_store_4(reduced_at(unit), stamp(unit));
    }
  }
};

// ---- The phase ---------------------------------------------------------------------------------------------------------------------------------

// Copies this share's activations to shared memory.
QSPEC_DEVICE void copy_input(const Phase& phase, const StreamShape& s, const ShareInput& to, RowBlocks blocks, int rows, int thread, int num_threads) {
  const XForm& x = phase.x;
  const int tile_bytes = x.bits == 16 ? x_tile_bytes(blocks) : code_tile_bytes(blocks), bytes = s.tiles * tile_bytes;
  const uint8_t* from = x.data + static_cast<int64_t>(s.run_begin) * kRunTiles * tile_bytes;
  for (int i = thread * 16; i < bytes; i += num_threads * 16) copy_async_16(to.x + i, from + i);
  commit_async();
  if (x.bits < 16) {
    const int groups_a_run = kRunK >> x.group_shift, columns = blocks.columns();
    const int begin = s.run_begin * groups_a_run * columns, total = (s.k >> x.group_shift) * columns;
    for (int i = thread; i < total; i += num_threads) {
      shared_store_float(to.scales + i * 4, load_l2(x.scales + begin + i));
      shared_store_4(to.sums + i * 4, static_cast<uint32_t>(load_l2(x.sums + begin + i)));
    }
  }
  const int lane = lane_index();
  QSPEC_NO_UNROLL
  for (int row = thread / kWarp; row < rows; row += num_threads / kWarp) {
    const float factor = x.squares ? row_factor(phase.source, [&](int i) { return load_l2(x.squares + row * num_row_runs(phase.source) + i); }) : 1.0f;
    if (lane == 0) shared_store_float(kFactorsAt + row * 4, factor);
  }
  wait_async<0>();
}

// Makes or copies the input of this share, all warps.
template <int n8>
QSPEC_DEVICE void fetch_input(const Phase& phase, const StreamShape& s, const ShareInput& to, RowBlocks blocks, int rows) {
  if constexpr (n8 == 1) {
    if (phase.linear.has_prologue) {
      uint8_t* const base = shared_memory();
      const int warp = thread_index() / kWarp;
      const RowsTask task{phase.rows == Rows::kTokensOfLogits ? step_batch().logit_row_index : nullptr, 0, rows, s.run_begin, s.run_begin + s.num_runs, warp, step_warps<n8>()};
      transform_rows<n8>(phase.source, task, phase.x, blocks,
                         {base + to.x, reinterpret_cast<float*>(base + to.scales), reinterpret_cast<int32_t*>(base + to.sums), reinterpret_cast<float*>(base + kSquaresAt)});
      return;
    }
  }
  copy_input(phase, s, to, blocks, rows, thread_index(), step_threads<n8>());
}

template <int n8>
QSPEC_DEVICE void run_linear(const StepParams& params, const Phase& phase, RowBlocks blocks, WeightStream<n8>& stream, int index) {
  const StreamShape& s = stream_shape(phase.shape_index);
  if (s.num_jobs == 0) return;
  const int rows = phase.rows == Rows::kTokens ? step_batch().rows : step_batch().logit_rows;
  const ShareInput input = share_input(s, phase.linear.weight.group_size, params.region_at, blocks);
  fetch_input<n8>(phase, s, input, blocks, rows);
  named_barrier(kBlockBarrier, step_threads<n8>());
  if (n8 == 1 && phase.linear.has_prologue) {  // every warp the same, so that nobody waits for another
    QSPEC_NO_UNROLL
    for (int row = 0; row < rows; ++row) {
      const float factor = row_factor(phase.source, kSquaresAt + row * num_row_runs(phase.source) * 4);
      if (lane_index() == 0) shared_store_float(kFactorsAt + row * 4, factor);
    }
    sync_warp();
  }
  stamp_clock(params, index, 0);
  LinearPhase<n8>{params, phase.linear, s, blocks, input, static_cast<uint32_t>(params.slabs_at), rows, index}.run_jobs(stream);
}

}  // namespace qspec::cuda
