#include "gemm_driver.h"
#include "gemm_lanes_avx512.h"

namespace qspec::cpu {

void linear_avx512(const LinearParams& params, Part part) { run_linear<Avx512Lanes>(params, part); }

}  // namespace qspec::cpu
