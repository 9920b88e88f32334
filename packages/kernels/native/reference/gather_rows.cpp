#include <cstring>

#include "common.h"

namespace qspec::reference {

void gather_rows(const GatherRowsParams& params, Part part) {
  const auto [begin, end] = rows_of_part(params.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    std::memcpy(params.output + row * params.width, params.input + params.row_index[row] * params.width,
                params.width * sizeof(float));
  }
}

}  // namespace qspec::reference
