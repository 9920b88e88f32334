#include "gemm_driver.h"
#include "gemm_lanes_avx2.h"

namespace qspec::cpu {

void linear_avx2(const LinearParams& params, Part part) { run_linear<Avx2Lanes>(params, part); }

}  // namespace qspec::cpu
