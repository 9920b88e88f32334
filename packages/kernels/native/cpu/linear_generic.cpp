// Plain C++17, for processors without AVX2.
#include "gemm_driver.h"
#include "gemm_lanes_generic.h"

namespace qspec::cpu {

void linear_generic(const LinearParams& params, Part part) { run_linear<GenericLanes>(params, part); }

}  // namespace qspec::cpu
