// Attention with plain C++, for any processor.
#include "simd_generic.h"

#include "attention.inl"
