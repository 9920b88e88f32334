// What the reference ops share. Scalar, one element at a time, sums in double: slow on purpose, easy to believe.
#pragma once
#include <cstdint>
#include <vector>

#include "qspec/params.h"

namespace qspec::reference {

// Rows [begin, end) of part `part`: contiguous, as equal as can be.
struct RowRange {
  int64_t begin, end;
};
inline RowRange rows_of_part(int64_t rows, Part part) {
  return {rows * part.index / part.count, rows * (part.index + 1) / part.count};
}

// W[n, k] as the format defines it: scale · hi, scale / radix · (radix · hi + lo), or the dense element.
double weight_at(const PackedWeight& weight, Plane plane, int64_t n, int64_t k);

// y = x · H / sqrt(block) for each block of `block` elements, H in Sylvester order: H[i, j] = (-1)^popcount(i & j). In
// place.
void hadamard(std::vector<double>& row, int block);

// Hadamard, then float store or quantisation, as the sink says. `values` is one row.
void store_row(const RowSink& sink, int64_t row, std::vector<double> values);

// Slot that holds the K and V of `position` as seen from `row`: its ancestor entry, or its page.
int64_t slot_of(const BatchRows& batch, int page_size, int64_t row, int64_t position);

// Element `index` of the cache array `data` ([num_slots, num_kv_heads, head_dim]); `scales` only for int8.
double kv_at(const KvLayer& cache, const void* data, const float* scales, int64_t slot, int head, int element);
// Stores one head's vector into `slot`; int8 takes scale = max|x| / 127.
void kv_store(const KvLayer& cache, void* data, float* scales, int64_t slot, int head, const float* values);

void embedding(const EmbeddingParams& params, Part part);
void gather_rows(const GatherRowsParams& params, Part part);
void rms_norm(const RmsNormParams& params, Part part);
void transform(const TransformParams& params, Part part);
void linear(const LinearParams& params, Part part);
void rope_kv_write(const RopeKvWriteParams& params, Part part);
void attention(const AttentionParams& params, Part part);
void silu_mul(const SiluMulParams& params, Part part);

}  // namespace qspec::reference
