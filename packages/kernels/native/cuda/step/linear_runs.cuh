// A linear of up to 16 rows. Each run of a row-tile leaves its sums in a slab. When a wave's runs are done, all threads together add those of
// every unit in order and store. A block whose share is a part of k leaves its slices' sums in the workspace, and whoever is last
// adds them.
#pragma once
#include "step/linear_shared.cuh"

namespace qspec::cuda {

// Sums of one run in its slab: [column][16 outputs]; every second pair of columns has its halves exchanged, against bank conflicts.
QSPEC_HOST_DEVICE constexpr int slab_bytes(int columns) { return columns * kTileN * 4; }
QSPEC_DEVICE int slab_place(int column, int out) { return (column * kTileN + (out ^ (column << 2 & 8))) * 4; }

// The sums of a wave's units, four neighbouring outputs of a row a thread at a time.
template <int n8>
struct WaveSums {
  const LinearPhase<n8>& phase;
  const LinearSpec& spec;
  const StreamShape& s;
  int first, count;  // units

  static constexpr int kQuads = kTileN / 4;

  struct Quad {
    int unit, row, within;  // of the wave; of the batch; of the row-tile's outputs
  };
  // Calls `run` for the calling thread's quads.
  template <typename Run>
  QSPEC_DEVICE void for_quads(const Run& run) const {
    const int each = phase.rows * kQuads;
    QSPEC_NO_UNROLL
    for (int i = thread_index(); i < count * each; i += step_threads<n8>()) {
      const int unit = i / each, rest = i - unit * each;
      run(Quad{unit, rest / kQuads, rest % kQuads * 4});
    }
  }
  QSPEC_DEVICE int tile(const Quad& q, bool is_second) const { return s.item_begin + first + q.unit + (is_second ? s.second_tile : 0); }

  // Runs [begin, begin + count) of a unit's first or second row-tile: runs of a slice in order, then slices in order.
  QSPEC_DEVICE void sum_runs(const Quad& q, bool is_second, int begin, int runs, float (&result)[4]) const {
    const uint32_t bytes = slab_bytes(phase.blocks.columns());
    uint32_t p = phase.params.slabs_at + (q.unit * s.unit_runs + (is_second ? s.num_runs : 0) + begin) * bytes + slab_place(q.row, q.within);
    QSPEC_NO_UNROLL
    for (int base = 0; base < runs; base += kSliceRuns) {
      uint4 v[kSliceRuns];
      QSPEC_UNROLL
      for (int i = 0; i < kSliceRuns; ++i) {
        v[i] = uint4{0, 0, 0, 0};
        if (base + i < runs) v[i] = shared_load_16(p);
        p += bytes;
      }
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) {
        float sum = float_of_bits(word_of(v[0], e));
        QSPEC_UNROLL
        for (int i = 1; i < kSliceRuns; ++i)
          if (base + i < runs) sum += float_of_bits(word_of(v[i], e));
        result[e] = base == 0 ? sum : result[e] + sum;
      }
    }
  }
  QSPEC_DEVICE float4* partial(const Quad& q, int slice, bool is_second) const {
    return reinterpret_cast<float4*>(phase.params.workspace.partials + (static_cast<int64_t>(slice) * phase.rows + q.row) * spec.weight.n_tiles * kTileN +
                                     tile(q, is_second) * kTileN + q.within);
  }
  // This share has only some slices of k: their sums go to the workspace.
  QSPEC_DEVICE void share_slices(const Quad& q, bool is_second) const {
    QSPEC_NO_UNROLL
    for (int begin = 0; begin < s.num_runs; begin += kSliceRuns) {
      float sum[4];
      sum_runs(q, is_second, begin, s.num_runs - begin < kSliceRuns ? s.num_runs - begin : kSliceRuns, sum);
      store_l2(partial(q, (s.run_begin + begin) / kSliceRuns, is_second), float4{sum[0], sum[1], sum[2], sum[3]});
    }
  }
  // The parts of k that a unit has count up; whoever comes last sees everybody's sums. All threads of the block.
  QSPEC_DEVICE void count_parts() const {
    named_barrier(kBlockBarrier, step_threads<n8>());
    const int unit = thread_index();
    if (unit < count) {
      fence_device();  // after the barrier: covers what the whole block stored
      int* counter = phase.params.workspace.counters + s.item_begin + first + unit;
      const bool is_last = atomic_add(counter, 1) == spec.num_parts - 1;
      if (is_last) *counter = 0;
      fence_device();
      shared_store_4(kCompleteAt + unit * 4, is_last);
    }
    named_barrier(kBlockBarrier, step_threads<n8>());
  }
  QSPEC_DEVICE void sum_slices(const Quad& q, bool is_second, float (&result)[4]) const {
    const int slices = num_slices(spec.weight.k_tiles);
    QSPEC_NO_UNROLL
    for (int base = 0; base < slices; base += 4) {
      float4 v[4];  // all loads wait together
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        v[i] = float4{0, 0, 0, 0};
        if (base + i < slices) v[i] = load_l2(partial(q, base + i, is_second));
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

  // After a barrier behind the wave's runs; the caller has another before the slabs are written again.
  QSPEC_DEVICE void store() const {
    const bool is_shared = spec.num_parts > 1;
    if (is_shared) {
      for_quads([&](const Quad& q) {
        share_slices(q, false);
        if (s.is_pair) share_slices(q, true);
      });
      count_parts();
    }
    for_quads([&](const Quad& q) {
      if (is_shared && shared_load_4(kCompleteAt + q.unit * 4) == 0) return;
      const float factor = shared_load_float(factor_at(spec, q.row));
      float sums[4] = {}, before[4] = {};
      QSPEC_NO_UNROLL
      for (int j = 0; j < (s.is_pair ? 2 : 1); ++j) {
        QSPEC_UNROLL
        for (int e = 0; e < 4; ++e) before[e] = sums[e];
        if (is_shared) sum_slices(q, j == 1, sums);
        else sum_runs(q, j == 1, 0, s.num_runs, sums);
      }
      const int column = tile(q, false) * kTileN + q.within;
      if (s.is_pair) store_silu(spec, phase.blocks, column, q.row, factor, before, sums);
      else store_output(spec, column, q.row, factor, sums);
    });
  }
};

// All runs of this block's share, wave by wave.
template <int n8, GemmMode mode, int shift>
struct WaveRuns {
  const LinearPhase<n8>& phase;
  const StreamShape& s;
  int lane;
  using Chunk = typename RunProduct<n8, mode, shift>::Chunk;
  RunProduct<n8, mode, shift> product;

  QSPEC_DEVICE explicit WaveRuns(const LinearPhase<n8>& of) : phase(of), s(of.s), lane(lane_index()), product(of) {}

  QSPEC_DEVICE void write_slab(int number, const Accumulator<n8>& total) const {
    const int g = lane / 4, t = lane % 4;
    const uint32_t slab = phase.params.slabs_at + number * slab_bytes(phase.blocks.columns());
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * c + 2 * t + (i & 1);
        if (n8 > 1 || column < phase.blocks.rows) shared_store_float(slab + slab_place(column, g + 8 * (i >> 1)), total.value[c][i]);
      }
  }

  // Multiplies a run of the wave; the next one's weights begin to come.
  QSPEC_DEVICE void step(RunWalk<n8>& at, Chunk& now, Chunk& next) {
    const RunPlace place = at.place;
    const int run = at.run, number = at.number;
    at.advance();
    Accumulator<n8> total;
    product.multiply(total, now, next, place, run, at.place_or(place));
    write_slab(number, total);
  }

  // `wait`: until the input is there.
  template <typename Wait>
  QSPEC_DEVICE void run(const StreamSource& source, const Wait& wait) {
    RunWalk<n8> at;
    at.begin(s, source);
    QSPEC_NO_UNROLL
    for (int wave = 0; wave < s.num_waves; ++wave) {
      at.begin_wave(s, source, wave, thread_index() / kWarp);
      product.begin(product.even, at.place);
      if (wave == 0) wait();
      QSPEC_NO_UNROLL
      while (at.left > 0) {
        step(at, product.even, product.odd);
        if (!RunProduct<n8, mode, shift>::kIsWholeRun) continue;
        if (at.left == 0) break;
        step(at, product.odd, product.even);
      }
      named_barrier(kBlockBarrier, step_threads<n8>());
      const int first = s.units * wave / s.num_waves;
      WaveSums<n8>{phase, phase.spec, s, first, s.units * (wave + 1) / s.num_waves - first}.store();
      if (wave + 1 < s.num_waves) named_barrier(kBlockBarrier, step_threads<n8>());
    }
  }
};

}  // namespace qspec::cuda
