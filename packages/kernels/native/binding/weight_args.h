// Weights in storage layout, borrowed from JavaScript typed arrays.
#pragma once
#include <napi.h>

#include <vector>

#include "qspec/packing.h"

namespace qspec::binding {

// Every array has exactly the length that the shape asks for, or an error names the tensor.
std::vector<WeightSource> read_weight_sources(const Napi::Value& parts);

// An array of every ArrayBuffer that `parts` borrow from: alive as long as it is.
Napi::Value hold_arrays(const Napi::Value& parts);

}  // namespace qspec::binding
