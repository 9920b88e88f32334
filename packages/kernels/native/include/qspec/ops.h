// The op contract of the CPU side. Every implementation fills one table; one conformance suite runs over all of them.
// (CUDA launchers take the same params and a stream; they live in native/cuda.)
//
// Calling: all parts 0 … count-1 of one op are run (in any order, concurrently), then a barrier, then the next op.
// Arguments were checked by check_*; ops trust them.
#pragma once
#include "qspec/params.h"
#include "qspec/status.h"

namespace qspec {

struct OpTable {
  const char* name;  // "reference", "generic", "avx2", "avx512", "avx512vnni"
  void (*embedding)(const EmbeddingParams&, Part);
  void (*gather_rows)(const GatherRowsParams&, Part);
  void (*rms_norm)(const RmsNormParams&, Part);
  void (*transform)(const TransformParams&, Part);        // block-Hadamard and/or quantise
  void (*linear)(const LinearParams&, Part);              // all formats, float and integer inputs
  void (*rope_kv_write)(const RopeKvWriteParams&, Part);
  void (*attention)(const AttentionParams&, Part);
  void (*silu_mul)(const SiluMulParams&, Part);
};

// Scalar, double accumulation: the truth.
const OpTable& reference_ops();

enum class CpuIsa : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Vnni = 3 };
// Best that this processor (and operating system) can run.
CpuIsa detect_cpu_isa();
// Table for `isa`; the caller must not ask for more than detect_cpu_isa().
const OpTable& cpu_ops(CpuIsa isa);

}  // namespace qspec
