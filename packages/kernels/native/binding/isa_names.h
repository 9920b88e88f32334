// Instruction sets by the names of src/native-types.ts (CPU_ISAS).
#pragma once
#include "qspec/ops.h"

namespace qspec::binding {

constexpr const char* kIsaNames[] = {"generic", "avx2", "avx512", "avx512vnni"};
inline const char* isa_name(CpuIsa isa) { return kIsaNames[static_cast<int>(isa)]; }

}  // namespace qspec::binding
