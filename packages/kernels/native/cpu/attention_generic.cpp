// Attention with plain C++, for any processor.
// clang-format off: the wrapper comes first
#include "simd_generic.h"
#include "attention.inl"
// clang-format on
