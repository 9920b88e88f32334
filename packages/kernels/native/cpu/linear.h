// Linear ops of each instruction set. linear_* files define them, dispatch.cpp puts them into the op tables.
#pragma once
#include "qspec/params.h"

namespace qspec::cpu {

void linear_generic(const LinearParams& params, Part part);
void linear_avx2(const LinearParams& params, Part part);
void linear_avx512(const LinearParams& params, Part part);
void linear_avx512vnni(const LinearParams& params, Part part);

}  // namespace qspec::cpu
