// A linear of up to 16 rows. A job, one run of one row-tile, leaves its sums in a slab; when the last job of a unit has, a team of warps adds
// its runs in order and stores. Teams take units in turn, each between two jobs of its own: were it left to whoever came last, that warp would
// be last again in every unit. Slabs are reused in turn, once their unit is stored. A block whose share is a part of k leaves its slices' sums
// in the workspace.
#pragma once
#include "step/linear_shared.cuh"

namespace qspec::cuda {

// Sums of one job in its slab: [column][16 outputs]; every second pair of columns has its halves exchanged, against bank conflicts.
QSPEC_HOST_DEVICE constexpr int slab_bytes(int columns) { return columns * kTileN * 4; }
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
    const uint32_t bytes = slab_bytes(blocks.columns()), end = slabs + slab_jobs * bytes;
    int slab = first + begin + j * s.num_runs;
    while (slab >= slab_jobs) slab -= slab_jobs;
    uint32_t p = slabs + slab * bytes;
    const uint32_t at = slab_place(quad() / kQuads, quad() % kQuads * 4);
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
  // The parts of k that an item has count up, team member by member; whoever comes last sees everybody's sums.
  QSPEC_DEVICE bool is_complete(int tile) const {
    sync_warp();
    int before = 0;
    if (lane_index() == 0) {
      fence_device();
      int* counter = workspace.counters + tile * kMaxTeam + member;
      before = atomic_add(counter, 1);
      if (before == spec.num_parts - 1) *counter = 0;
      fence_device();
    }
    return shuffle_from(before, 0) == spec.num_parts - 1;
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
    if (spec.num_parts > 1) {
      QSPEC_NO_UNROLL
      for (int j = 0; j < count && has_quad(); ++j) share_slices(first, j, j == 0 ? tile : second);
      if (!is_complete(tile)) return;
    }
    if (!has_quad()) return;
    const int row = quad() / kQuads, within = quad() % kQuads * 4;
    const float factor = shared_load_float(factor_at(spec, row));
    float sums[4] = {}, before[4] = {};
    QSPEC_NO_UNROLL
    for (int j = 0; j < count; ++j) {
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) before[e] = sums[e];
      if (spec.num_parts > 1) sum_slices(j == 0 ? tile : second, sums);
      else sum_runs(first, j, 0, s.num_runs, sums);
    }
    if (count == 2) store_silu(spec, blocks, tile * kTileN + within, row, factor, before, sums);
    else store_output(spec, tile * kTileN + within, row, factor, sums);
  }
};

// All jobs of this warp.
template <int n8, GemmMode mode, int shift>
struct RunJobs {
  static constexpr int kWarps = step_warps<n8>(), kTeam = n8, kTeams = kWarps / kTeam;  // 32 quads a warp: 8 rows

  const LinearPhase<n8>& phase;
  const StreamShape& s;
  int warp, lane, units, slab_jobs;
  int mine, mine_slab;  // unit that this warp's team stores next, and where its first job is
  RunProduct<n8, mode, shift> product;

  QSPEC_DEVICE explicit RunJobs(const LinearPhase<n8>& of)
      : phase(of), s(of.s), warp(thread_index() / kWarp), lane(lane_index()), units(of.s.item_end - of.s.item_begin), slab_jobs(of.params.slab_jobs),
        mine(warp / kTeam), mine_slab(mine * of.s.unit_jobs % slab_jobs), product(of) {}

  QSPEC_DEVICE uint32_t stamp(int unit) const { return static_cast<uint32_t>(phase.index << 16 | (unit + 1)); }
  QSPEC_DEVICE static uint32_t arrived_at(int unit) { return kUnitsAt + unit % kUnitCounters * 4; }
  QSPEC_DEVICE static uint32_t stored_at(int unit) { return kStoredAt + unit % kUnitCounters * 4; }
  QSPEC_DEVICE static uint32_t reduced_at(int unit) { return kReducedAt + unit % kUnitCounters * 4; }
  // The same in all lanes.
  QSPEC_DEVICE static uint32_t counter(uint32_t at) { return static_cast<uint32_t>(shuffle_from(static_cast<int>(shared_load_flag(at)), 0)); }
  QSPEC_DEVICE uint32_t slab_at(int slab) const { return phase.params.slabs_at + slab * slab_bytes(phase.blocks.columns()); }

  QSPEC_DEVICE void write_slab(uint32_t slab, const Accumulator<n8>& total) const {
    const int g = lane / 4, t = lane % 4;
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * c + 2 * t + (i & 1);
        if (n8 > 1 || column < phase.blocks.rows) shared_store_float(slab + slab_place(column, g + 8 * (i >> 1)), total.value[c][i]);
      }
  }

  // This member's share of the team's next unit, if that is complete.
  QSPEC_DEVICE bool store_mine() {
    if (mine >= units || counter(arrived_at(mine)) != static_cast<uint32_t>(s.unit_jobs)) return false;
    fence_block();
    const int tile = s.item_begin + mine;
    UnitSums<n8>{phase.spec, s, phase.params.workspace, phase.blocks, static_cast<uint32_t>(phase.params.slabs_at), slab_jobs, phase.rows, warp % kTeam}.finish(
        mine_slab, tile, s.is_pair ? tile + s.second_tile : -1);
    sync_warp();
    if (lane == 0) mark_stored(mine);
    mine += kTeams, mine_slab = (mine_slab + kTeams * s.unit_jobs) % slab_jobs;
    return true;
  }
  QSPEC_DEVICE void mark_stored(int unit) const {
    fence_block();
    if (kTeam > 1 && shared_add(stored_at(unit), 1) != kTeam - 1) return;
    shared_store_flag(stored_at(unit), 0);
    shared_store_flag(arrived_at(unit), 0);
    fence_block();
    shared_store_flag(reduced_at(unit), stamp(unit));
  }

  // `wait`: until the input is there.
  template <typename Wait>
  QSPEC_DEVICE void run(const StreamSource& source, const Wait& wait) {
    JobCursor<n8> at, next;
    at.begin(s, warp);
    RunPlace place = at.place(s, source), next_place;
    if (at.is_there(s)) product.begin(place, at.run(s));
    wait();
    int slab = warp;  // job modulo slab_jobs
    while (at.is_there(s)) {
      next = at, next.advance(s);
      next_place = next.place(s, source);
      const bool has_next = next.is_there(s);
      if (has_next) next.prefetch(s, next_place, lane);
      Accumulator<n8> total;
      product.multiply(total, place, at.run(s), has_next, next_place, next.run(s));
      while (slab >= slab_jobs) slab -= slab_jobs;
      if (at.job >= slab_jobs) {  // the slab's last unit must have been stored
        const int before = (at.job - slab_jobs) / s.unit_jobs;
        while (counter(reduced_at(before)) != stamp(before))
          if (!store_mine()) pause();
      }
      write_slab(slab_at(slab), total);
      slab += kWarps;
      sync_warp();
      if (lane == 0) {
        fence_block();
        shared_add(arrived_at(at.unit), 1);
      }
      store_mine();
      at = next, place = next_place;
    }
    while (mine < units)
      if (!store_mine()) pause();
  }
};

}  // namespace qspec::cuda
