// Storage rows -> resident tiles (formats.h). Internal to packing.
#pragma once
#include "qspec/formats.h"
#include "qspec/packing.h"

namespace qspec::cpu {

// Word of eight nibbles in order of k -> the resident order, where bytes hold k and k + 4:
//   storage   7654 3210   (k of each nibble, high to low)
//   resident  73 62 51 40
uint32_t interleave_nibbles(uint32_t storage);
// The inverse.
uint32_t deinterleave_nibbles(uint32_t resident);

// Write one storage row of `source` as row `row` of a resident weight. `k`-sized strides come from the source, which
// was checked.
void pack_codes_row(const int32_t* storage, int64_t k, int64_t row, uint32_t* plane);
void pack_scales_row(const uint16_t* storage, int64_t num_groups, int64_t row, uint16_t* scales);
void pack_dense_row(const WeightSource& source, int64_t source_row, int64_t row, WeightKind kind, void* dense);

}  // namespace qspec::cpu
