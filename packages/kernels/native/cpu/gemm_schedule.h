// How an op is cut into parts, and rows into blocks. Cuts never change a result: an output element is one lane's walk
// along K.
#pragma once
#include <cstdint>

#include "qspec/params.h"

namespace qspec::cpu {
namespace {

struct Cut {
  int64_t tile_begin, tile_end;
  int64_t row_begin, row_end;
};

constexpr int64_t kRowUnit = 16;  // rows are cut at multiples of the largest row block

// A grid of (tile parts x row parts) with the smallest largest share; on a tie the one that re-reads fewer weights.
inline Cut cut_work(int64_t tiles, int64_t rows, Part part) {
  const int64_t units = (rows + kRowUnit - 1) / kRowUnit;
  int64_t row_parts = 1, best = INT64_MAX;
  for (int64_t m = 1; m <= part.count && m <= units; ++m) {
    if (part.count % m != 0) continue;
    const int64_t tile_parts = part.count / m;
    const int64_t share = ((tiles + tile_parts - 1) / tile_parts) * ((units + m - 1) / m);
    if (share < best) best = share, row_parts = m;
  }
  const int64_t tile_parts = part.count / row_parts;
  const int64_t i = part.index % tile_parts, j = part.index / tile_parts;
  const int64_t row_end = units * (j + 1) / row_parts * kRowUnit;
  return {tiles * i / tile_parts, tiles * (i + 1) / tile_parts, units * j / row_parts * kRowUnit,
          row_end < rows ? row_end : rows};
}

// Size of the next row block when `left` rows remain and kernels take at most `largest`: nearly equal blocks (9 rows
// are 5 + 4, not 8 + 1).
inline int next_row_block(int64_t left, int largest) {
  const int64_t blocks = (left + largest - 1) / largest;
  return static_cast<int>((left + blocks - 1) / blocks);
}

}  // namespace
}  // namespace qspec::cpu
