// Which instruction set this machine has, and the op table of each.
#include "linear.h"
#include "qspec/ops.h"
#include "row_ops.h"

#if defined(__x86_64__) || defined(_M_X64)
#define QSPEC_X86 1
#include <cpuid.h>
#endif

namespace qspec {

#if QSPEC_X86
namespace {
// Registers that the operating system saves: bits 1-2 SSE and AVX, bits 5-7 AVX-512.
uint64_t enabled_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}
constexpr bool has(uint32_t word, int bit) { return (word >> bit) & 1; }
}  // namespace
#endif

CpuIsa detect_cpu_isa() {
#if QSPEC_X86
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return CpuIsa::kGeneric;
  const bool has_osxsave = has(c, 27), has_avx = has(c, 28), has_fma = has(c, 12), has_f16c = has(c, 29);
  if (!has_osxsave || !has_avx || !has_fma || !has_f16c) return CpuIsa::kGeneric;
  const uint64_t state = enabled_state();
  if ((state & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, 5)) return CpuIsa::kGeneric;
  const bool has_avx512 =
      (state & 0xe6) == 0xe6 && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);  // F, DQ, BW, VL
  if (!has_avx512) return CpuIsa::kAvx2;
  return has(c, 11) ? CpuIsa::kAvx512Vnni : CpuIsa::kAvx512;
#else
  return CpuIsa::kGeneric;
#endif
}

#define QSPEC_TABLE(name, isa, linear)                                                                 \
  {name,        cpu::isa::embedding,     cpu::gather_rows,    cpu::isa::rms_norm, cpu::isa::transform, \
   cpu::linear, cpu::isa::rope_kv_write, cpu::isa::attention, cpu::isa::silu_mul}

const OpTable& cpu_ops(CpuIsa isa) {
  static const OpTable generic = QSPEC_TABLE("generic", generic, linear_generic);
#if QSPEC_X86
  static const OpTable avx2 = QSPEC_TABLE("avx2", avx2, linear_avx2);
  static const OpTable avx512 = QSPEC_TABLE("avx512", avx512, linear_avx512);
  static const OpTable avx512vnni = QSPEC_TABLE("avx512vnni", avx512, linear_avx512vnni);
  if (isa == CpuIsa::kAvx2) return avx2;
  if (isa == CpuIsa::kAvx512) return avx512;
  if (isa == CpuIsa::kAvx512Vnni) return avx512vnni;
#endif
  static_cast<void>(isa);
  return generic;
}

}  // namespace qspec
