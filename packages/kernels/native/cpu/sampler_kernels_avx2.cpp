// Passes of the sampler with AVX2 and FMA.
#if defined(__x86_64__) || defined(_M_X64)
#include "simd_avx2.h"

#include "sampler_kernels.inl"
#endif
