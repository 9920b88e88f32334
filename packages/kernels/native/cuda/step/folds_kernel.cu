#include "step/folds_kernel.h"

#include "common/launch.cuh"
#include "step/attention_sums.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

namespace {
constexpr int kFoldWarps = kSegmentSplits / kChunkSplits;  // of a block, which has a column: a chunk each
constexpr int kEntryBytes = (kMaxHeadDim + kResultTail) * 4;
}  // namespace

struct FoldsKernelParams {
  FoldsParams of;
  uint32_t by_heads, by_rows;  // reciprocals
};

// One output of a column.
struct FoldedOutput {
  float value, largest, weight;
  QSPEC_DEVICE void clear() { value = weight = 0, largest = -INFINITY; }
  QSPEC_DEVICE void append(const FoldedOutput& next) {
    const FoldFactors f = fold_factors(largest, next.largest);
    value = fold(f, value, next.value), largest = f.largest, weight = fold(f, weight, next.weight);
  }
};

// A row and a head. Everything here is run once, so its code comes from far, and each chain is waited for: chunks are folded side by side, a warp each, and then, by
// a thread an output, in order.
struct ColumnFolds {
  const FoldsParams& params;
  int row, head;

  QSPEC_DEVICE int dim() const { return params.spec.head_dim; }
  QSPEC_DEVICE int stride() const { return params.spec.num_heads * (dim() + kResultTail); }
  QSPEC_DEVICE const float* result(const float* results, int row_stride, int slot) const {
    return results + (static_cast<int64_t>(row) * row_stride + slot) * stride() + head * (dim() + kResultTail);
  }
  QSPEC_DEVICE static SharedPlace entry(int i) { return shared_place(i * kEntryBytes); }

  // By a warp: `count` results, up to a chunk's, in order. A lane has four outputs.
  QSPEC_DEVICE void fold_chunk(const float* from, int count, int to) const {
    const int lane = lane_index(), at = 4 * lane;
    if (at >= dim()) return;
    float4 next[kChunkSplits];
    float2 tail[kChunkSplits];
    QSPEC_UNROLL
    for (int i = 0; i < kChunkSplits; ++i) {
      next[i] = float4{0, 0, 0, 0}, tail[i] = float2{-INFINITY, 0};  // which changes nothing
      if (i < count) next[i] = load_l2(reinterpret_cast<const float4*>(from + i * stride() + at)), tail[i] = load_l2(reinterpret_cast<const float2*>(from + i * stride() + dim()));
    }
    FoldedOutputs chunk;
    chunk.clear();
    QSPEC_UNROLL
    for (int i = 0; i < kChunkSplits; ++i) chunk.append({{next[i].x, next[i].y, next[i].z, next[i].w}, tail[i].x, tail[i].y});
    shared_store_16(entry(to) + at * 4, uint4{bits_of_float(chunk.value[0]), bits_of_float(chunk.value[1]), bits_of_float(chunk.value[2]), bits_of_float(chunk.value[3])});
    if (lane == 0) shared_store_float(entry(to) + dim() * 4, chunk.largest), shared_store_float(entry(to) + dim() * 4 + 4, chunk.weight);
  }
  // Entries onto `total`. All threads.
  QSPEC_DEVICE void append_entries(int count, FoldedOutput& total) const {
    named_barrier(kBlockBarrier, kFoldWarps * kWarp);
    const int own = thread_index() < dim() ? thread_index() : 0;
    QSPEC_NO_UNROLL
    for (int i = 0; i < count; ++i)
      total.append({shared_load_float(entry(i) + own * 4), shared_load_float(entry(i) + dim() * 4), shared_load_float(entry(i) + dim() * 4 + 4)});
    named_barrier(kBlockBarrier, kFoldWarps * kWarp);  // before the next ones
  }
  // All segments of a block of rows, in order: of each what was handed in as such, or its items' results. `first`: the first of its folds.
  QSPEC_DEVICE FoldedOutput fold(const AttentionFold& first) const {
    const int warp = thread_index() / kWarp;
    const AttentionFold* rest = params.batch->folds + first.rest - 1;
    FoldedOutput total;
    total.clear();
    AttentionFold of = first;
    QSPEC_NO_UNROLL
    for (int i = 0; i < first.num_folds;) {
      if (i > 0) of = load_struct(rest + i);
      ++i;
      if (of.num_items > 1) {  // chunks are results, and then four splits' are a chunk
        const int splits = of.num_results - of.num_chunks, of_splits = warp - of.num_chunks, skipped = of.num_chunks + of_splits * kChunkSplits;
        const float* from = result(params.workspace.item_results, load_constant(&params.batch->result_stride), of.first_result);
        if (of_splits < 0) fold_chunk(from + warp * stride(), 1, warp);
        else if (skipped < of.num_results) fold_chunk(from + skipped * stride(), of.num_results - skipped, warp);
        FoldedOutput segment;
        segment.clear();
        append_entries(of.num_chunks + (splits + kChunkSplits - 1) / kChunkSplits, segment);
        total.append(segment);
        continue;
      }
      while (i < first.num_folds && load_constant(&rest[i].num_items) == 1) ++i;
      const int end = i < first.num_folds ? load_constant(&rest[i].segment) : first.num_segments;
      const float* from = result(params.workspace.segment_results, load_constant(&params.batch->segment_stride), 0);
      QSPEC_NO_UNROLL
      for (int segment = of.segment; segment < end; segment += kFoldWarps) {
        if (segment + warp < end) fold_chunk(from + (segment + warp) * stride(), 1, warp);
        append_entries(end - segment < kFoldWarps ? end - segment : kFoldWarps, total);
      }
    }
    return total;
  }
  QSPEC_DEVICE void store(const FoldedOutput& total) const {
    const AttentionSpec& spec = params.spec;
    const int thread = thread_index(), k = head * dim() + thread;
    const float value = total.value / total.weight, next = shuffle_xor(value, 1);
    if (thread >= dim()) return;
    if (!spec.out_x) spec.output[static_cast<int64_t>(row) * spec.num_heads * dim() + k] = value;
    else if (thread % 2 == 0) *reinterpret_cast<uint32_t*>(spec.out_x + x_offset(params.blocks, row, k)) = pack_bf16(value, next);
  }
};

QSPEC_KERNEL(kFoldWarps * kWarp, 8) folds_kernel(const QSPEC_GRID_CONSTANT FoldsKernelParams params) {
  const AttentionSpec& spec = params.of.spec;
  const int of_row = quotient(block_index(), params.by_heads), head = block_index() - of_row * spec.num_heads, group = quotient(of_row, params.by_rows), row = of_row - group * params.of.shape.rows;
  let_next_kernel_begin();
  const AttentionFold first = load_struct(params.of.batch->folds + group);  // the host's
  wait_for_previous_kernel();
  if (row >= first.num_rows || (first.num_items == 1 && first.num_segments == 1)) return;
  const ColumnFolds column{params.of, first.row_begin + row, head};
  column.store(column.fold(first));
}

Status launch_folds(const FoldsParams& params, cudaStream_t stream) {
  const int heads = params.spec.num_heads, blocks = params.shape.groups * params.shape.rows * heads;
  static_assert(kFoldWarps * kWarp >= kMaxHeadDim, "a thread an output");
  if (blocks == 0) return {};
  return launch(folds_kernel, {blocks, kFoldWarps * kWarp, kFoldWarps * kEntryBytes, false, true}, stream, "folds kernel", FoldsKernelParams{params, reciprocal_of(heads), reciprocal_of(params.shape.rows)});
}

}  // namespace qspec::cuda
