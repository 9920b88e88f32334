// Passes of the sampler with plain C++, for any processor.
#include "simd_generic.h"

#include "sampler_kernels.inl"
