// Row ops with plain C++, for any processor.
#include "simd_generic.h"

#include "row_ops.inl"
