// Passes of the sampler with plain C++, for any processor.
// clang-format off: the wrapper comes first
#include "simd_generic.h"
#include "sampler_kernels.inl"
// clang-format on
