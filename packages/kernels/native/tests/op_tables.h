// The op tables that this machine can run, beside the reference.
#pragma once
#include <vector>

#include "qspec/ops.h"

namespace qspec::test {

inline std::vector<const OpTable*> cpu_tables() {
  std::vector<const OpTable*> tables;
  const int best = static_cast<int>(detect_cpu_isa());
  for (int isa = 0; isa <= best && isa <= static_cast<int>(CpuIsa::kAvx512);
       ++isa) {  // the row ops of avx512vnni are avx512's
    tables.push_back(&cpu_ops(static_cast<CpuIsa>(isa)));
  }
  return tables;
}

// Runs all parts of an op one after the other; `count` parts must give what one part gives.
template <typename Params>
void run_parts(void (*op)(const Params&, Part), const Params& params, int count = 1) {
  for (int index = count - 1; index >= 0; --index) op(params, Part{index, count});
}

}  // namespace qspec::test
