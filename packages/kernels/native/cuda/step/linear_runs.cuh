// A linear of up to 16 rows. Each run of a row-tile leaves its sums in a slab. When a wave's runs are done, all threads together add those of
// every unit in order and store. A block whose share is a part of k leaves its slices' sums in the workspace, and whoever is last
// adds them.
#pragma once
#include "step/linear_shared.cuh"

namespace qspec::cuda {

// The sums of a wave's units. A row of a unit is the task of neighbouring lanes: four outputs and a slice of k each, so that no lane has a long chain
// to add while everybody waits. The lanes of the first slice get the others' sums, in order, and store.
template <int n8, bool makes_norm>
struct WaveSums {
  const LinearPhase<n8>& phase;
  const LinearSpec& spec;
  const StreamShape& s;
  int first, count;  // units

  static constexpr int kQuads = kTileN / 4, kMostSlices = kWarp / kQuads;

  struct Task {
    int unit, row;      // of the wave; of the batch
    int within, slice;  // the lane's of the row-tile's outputs; of k
    int slices;         // lanes of a task, in slices: a power of two
    bool is_there;
  };
  // How `slices` of k are shared out to a warp's lanes.
  struct Lanes {
    int column_shift, slice_shift;  // log2 of columns, of slices that have lanes
    QSPEC_DEVICE int step() const { return kWarp / kQuads >> slice_shift; }  // tasks of a warp at once
  };
  // log2, rounded up, of 1 to 16.
  QSPEC_DEVICE static int shift_for(int count) { return count > 8 ? 4 : count > 4 ? 3 : count > 2 ? 2 : count - 1; }
  QSPEC_DEVICE Lanes lanes(int slices) const { return {shift_for(phase.blocks.columns()), shift_for(slices < kMostSlices ? slices : kMostSlices)}; }
  QSPEC_DEVICE Task task(const Lanes& l, int base) const {
    const int lane = lane_index(), number = base + (lane / kQuads >> l.slice_shift), row = number & ((1 << l.column_shift) - 1);
    return {number >> l.column_shift, row, lane % kQuads * 4, lane / kQuads & ((1 << l.slice_shift) - 1), 1 << l.slice_shift, number < count << l.column_shift && row < phase.rows};
  }
  // Calls `run` for the calling warp's tasks, all lanes together.
  template <typename Run>
  QSPEC_DEVICE void for_tasks(int slices, const Run& run) const {
    const Lanes l = lanes(slices);
    QSPEC_NO_UNROLL
    for (int base = thread_index() / kWarp * l.step(); base < count << l.column_shift; base += step_warps<n8>() * l.step()) run(task(l, base));
  }
  QSPEC_DEVICE int tile(const Task& t, bool is_second) const { return s.item_begin + first + t.unit + (is_second ? s.second_tile : 0); }

  // A slice of a unit's first or second row-tile, counted from the share's first: its runs in order.
  QSPEC_DEVICE FourSums slice_of_runs(const Task& t, bool is_second, int slice) const {
    const int bytes = slab_bytes(phase.blocks.columns()), begin = slice * kSliceRuns, runs = s.num_runs - begin;
    const uint32_t p = s.slabs_at + (t.unit * s.unit_runs + (is_second ? s.num_runs : 0) + begin) * bytes + slab_place(t.row, t.within);
    return t.is_there && runs > 0 ? sum_slabs(p, bytes, runs) : FourSums{};
  }
  QSPEC_DEVICE float4* partial(const Task& t, int slice, bool is_second) const {
    return reinterpret_cast<float4*>(phase.params.workspace.partials + (static_cast<int64_t>(slice) * phase.rows + t.row) * spec.weight.n_tiles * kTileN +
                                     tile(t, is_second) * kTileN + t.within);
  }
  // `get(slice)` of all slices, in order; right in the lanes of the task's first slice.
  template <typename Get>
  QSPEC_DEVICE FourSums sum_slices(const Task& t, int slices, const Get& get) const {
    FourSums result{};
    QSPEC_NO_UNROLL
    for (int base = 0; base < slices; base += t.slices) {
      const FourSums one = get(base + t.slice);
      QSPEC_UNROLL
      for (int i = 0; i < kMostSlices; ++i) {
        if (i >= t.slices) break;
        FourSums next;
        QSPEC_UNROLL
        for (int e = 0; e < 4; ++e) next.value[e] = shuffle_from(one.value[e], (lane_index() + i * kQuads) % kWarp);
        result.add(next, base + i < slices, base + i == 0);
      }
    }
    return result;
  }

  // All slices from the workspace, in order, by one lane: all loads wait together.
  QSPEC_DEVICE FourSums sum_partials(const Task& t, bool is_second, int slices) const {
    constexpr int kAtOnce = 8;
    FourSums result{};
    QSPEC_NO_UNROLL
    for (int base = 0; base < slices; base += kAtOnce) {
      float4 v[kAtOnce];
      QSPEC_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        v[i] = float4{0, 0, 0, 0};
        if (base + i < slices) v[i] = load_l2(partial(t, base + i, is_second));
      }
      QSPEC_UNROLL
      for (int i = 0; i < kAtOnce; ++i) result.add(FourSums::of(v[i]), base + i < slices, base + i == 0);
    }
    return result;
  }

  // This share has only some slices of k: their sums go to the workspace.
  QSPEC_DEVICE void share_slices(int slices) const {
    for_tasks(slices, [&](const Task& t) {
      for (int slice = t.slice; t.is_there && slice < slices; slice += t.slices)
        for (int j = 0; j < (s.is_pair ? 2 : 1); ++j) {
          const FourSums sum = slice_of_runs(t, j == 1, slice);
          store_l2(partial(t, s.run_begin / kSliceRuns + slice, j == 1), float4{sum.value[0], sum.value[1], sum.value[2], sum.value[3]});
        }
    });
  }
  // The parts of k that a unit has count up; whoever comes last sees everybody's sums. All threads of the block.
  QSPEC_DEVICE void count_parts() const {
    named_barrier(kBlockBarrier, step_threads<n8>());
    const int unit = thread_index();
    if (unit < count) {
      int* counter = phase.params.workspace.counters + s.item_begin + first + unit;
      const bool is_last = count_up(counter) == spec.num_parts - 1;  // after the barrier: for what the whole block stored
      if (is_last) *counter = 0;
      shared_store_4(kCompleteAt + unit * 4, is_last);
    }
    named_barrier(kBlockBarrier, step_threads<n8>());
  }

  QSPEC_DEVICE bool is_shared() const { return spec.num_parts > 1; }
  QSPEC_DEVICE int own_slices() const { return (s.num_runs + kSliceRuns - 1) / kSliceRuns; }
  // That a task has lanes for as its sums are stored.
  QSPEC_DEVICE int lane_slices() const { return is_shared() ? 1 : own_slices(); }
  QSPEC_DEVICE int column(const Task& t) const { return tile(t, false) * kTileN + t.within; }
  // Before that barrier: of the first task.
  QSPEC_DEVICE Residual<may_post<n8>()> first_residual() const {
    if (!makes_norm && !may_post<n8>()) return {};
    const Lanes l = lanes(lane_slices());
    const Task t = task(l, thread_index() / kWarp * l.step());
    return Residual<may_post<n8>()>::load(spec, column(t), t.row, t.is_there && t.slice == 0);
  }
  // What becomes of a task's sums. All lanes of a warp; only those that are there store.
  QSPEC_DEVICE void store_task(const Task& t, bool is_there, const Residual<may_post<n8>()>& residual, FourSums& sums, FourSums& ups) const {
    const float factor = is_there ? shared_load_float(factor_at(spec, t.row)) : 0;
    if constexpr (makes_norm) {
      store_residual(spec, phase.blocks, column(t), t.row, is_there, factor, residual, sums.value);
    } else if (is_there) {
      if (s.is_pair) store_silu<may_post<n8>()>(spec, phase.blocks, column(t), t.row, factor, sums.value, ups.value);
      else store_output(spec, column(t), t.row, factor, residual, sums.value);
    }
  }

  // Few rows, and all of k is here: a lane has four outputs to itself. What everybody waits for is run once a linear, so what counts is that it is short:
  // instructions come from far.
  QSPEC_DEVICE Task few_task(int i) const {
    constexpr int kRows = kernel_blocks(n8).rows;
    const int number = i / kQuads, unit = number / kRows, row = number % kRows;
    return {unit, row, i % kQuads * 4, 0, 1, unit < count && row < phase.rows};
  }
  QSPEC_DEVICE FourSums sum_runs(const Task& t, bool is_second, int slices) const {
    FourSums sum{};
    QSPEC_NO_UNROLL
    for (int slice = 0; slice < slices; ++slice) sum.add(slice_of_runs(t, is_second, slice), true, slice == 0);
    return sum;
  }
  template <typename Meet>
  QSPEC_DEVICE void store_few(const Meet& meet) const {
    const int slices = own_slices(), end = (count * kQuads * phase.blocks.rows + kWarp - 1) / kWarp * kWarp;
    int i = thread_index();
    Task t = few_task(i);
    auto residual = Residual<may_post<n8>()>::load(spec, column(t), t.row, t.is_there);
    meet();
    QSPEC_NO_UNROLL
    while (i < end) {
      FourSums sums = sum_runs(t, false, slices), ups{};
      if (!makes_norm && s.is_pair) ups = sum_runs(t, true, slices);
      store_task(t, t.is_there, residual, sums, ups);
      i += step_threads<n8>();
      t = few_task(i);
      residual = Residual<may_post<n8>()>::load(spec, column(t), t.row, t.is_there);
    }
  }

  // After a barrier behind the wave's runs; the caller has another before the slabs are written again.
  QSPEC_DEVICE void store(const Residual<may_post<n8>()>& first_residual) const {
    const bool is_shared = this->is_shared();
    if (is_shared) {
      share_slices(own_slices());
      count_parts();
    }
    bool is_first = true;
    for_tasks(lane_slices(), [&](Task t) {
      if (is_shared) t.is_there = t.is_there && shared_load_4(kCompleteAt + t.unit * 4) != 0;
      const auto sum = [&](bool is_second) {
        if (!is_shared) return sum_slices(t, own_slices(), [&](int slice) { return slice_of_runs(t, is_second, slice); });
        return t.is_there ? sum_partials(t, is_second, num_slices(spec.weight.k_tiles)) : FourSums{};
      };
      FourSums sums = sum(false), ups{};
      if (!makes_norm && s.is_pair) ups = sum(true);
      const bool is_there = t.is_there && t.slice == 0;
      store_task(t, is_there, is_first ? first_residual : Residual<may_post<n8>()>::load(spec, column(t), t.row, is_there), sums, ups);
      is_first = false;
    });
  }
};

// When the calling warp is done with a wave's runs. A function of its own for all formats: what everybody waits for had better be in the
// instruction caches, and the products' loops keep their registers.
template <int n8, bool makes_norm>
QSPEC_DEVICE_CALL void finish_wave(int index, int first, int count) {
  const LinearPhase<n8> phase(step_params(), index, 0);
  const LinearSpec spec = phase.spec;  // read now: what follows the barrier is what everybody waits for
  const StreamShape s = phase.s;
  const WaveSums<n8, makes_norm> sums{phase, spec, s, first, count};
  const auto meet = [&] {
    named_barrier(kBlockBarrier, step_threads<n8>());
    phase.stamp(3);
  };
  if constexpr (may_post<n8>()) {
    if (!sums.is_shared()) return sums.store_few(meet);
  }
  const auto residual = sums.first_residual();
  meet();
  sums.store(residual);
}

// All runs of this block's share, wave by wave.
template <int n8, GemmMode mode, int shift>
struct WaveRuns {
  const LinearPhase<n8>& phase;
  const StreamShape& s;
  int lane;
  using Chunk = typename RunProduct<n8, mode, shift>::Chunk;
  RunProduct<n8, mode, shift> product;
  RunWalk<n8> at;

  QSPEC_DEVICE explicit WaveRuns(const LinearPhase<n8>& of) : phase(of), s(of.s), lane(own_lane()), product(of) {}

  // Multiplies a run of the wave; the next one's weights begin to come.
  QSPEC_DEVICE void step(Chunk& now, Chunk& next) {
    const RunPlace place = at.place;
    const int run = at.run, number = at.number;
    at.advance();
    Accumulator<row_blocks<n8>()> total;
    product.multiply(total, now, next, place, run, at.place_or(place));
    write_slab<row_blocks<n8>()>(s.slabs_at + number * slab_bytes(phase.blocks.columns()), total, phase.blocks.rows, lane);
  }

  // Before the input is there: the first weights.
  QSPEC_DEVICE void begin(const StreamSource& source) {
    at.begin(s, source, warp_start(phase.params, phase.phase.shape_index));
    product.begin(product.even, at.place);
  }
  // After begin(), when it is.
  QSPEC_DEVICE void run(const StreamSource& source) {
    phase.stamp(1);
    product.begin_input();
    QSPEC_NO_UNROLL
    for (int wave = 0, first = 0;;) {
      QSPEC_NO_UNROLL
      while (at.left > 0) {
        step(product.even, product.odd);
        if (!RunProduct<n8, mode, shift>::kIsWholeRun) continue;
        if (at.left == 0) break;
        step(product.odd, product.even);
      }
      phase.stamp(2);
      const bool is_last = ++wave == s.num_waves;
      const int end = is_last ? s.units : s.units * wave / s.num_waves;
      if (phase.spec.next_norm) finish_wave<n8, true>(phase.index, first, end - first);
      else finish_wave<n8, false>(phase.index, first, end - first);
      if (is_last) break;
      first = end;
      at.begin(s, source, RunWalk<n8>::find_start(s, wave, thread_index() / kWarp));
      product.begin(product.even, at.place);
      named_barrier(kBlockBarrier, step_threads<n8>());
    }
  }
};

}  // namespace qspec::cuda
