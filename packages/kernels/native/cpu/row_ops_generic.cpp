// Row ops with plain C++, for any processor.
// clang-format off: the wrapper comes first
#include "simd_generic.h"
#include "row_ops.inl"
// clang-format on
