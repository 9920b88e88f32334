// Attention with AVX-512.
#if defined(__x86_64__) || defined(_M_X64)
// clang-format off: the wrapper comes first
#include "simd_avx512.h"
#include "attention.inl"
// clang-format on
#endif
