// Every matrix product of the CPU backend, one entry an instruction set. Formats: see gemm_driver.h.
#pragma once
#include "qspec/params.h"

namespace qspec::cpu {

void linear_generic(const LinearParams& params, Part part);
void linear_avx2(const LinearParams& params, Part part);
void linear_avx512(const LinearParams& params, Part part);
void linear_avx512vnni(const LinearParams& params, Part part);

}  // namespace qspec::cpu
