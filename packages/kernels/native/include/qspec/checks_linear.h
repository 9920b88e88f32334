// Argument check of the linear op, run once when a program is recorded; kernels trust what passed here.
#pragma once
#include "qspec/params.h"
#include "qspec/status.h"

namespace qspec {

// Decided here:
// - `Plane::kHi` of an int4 weight is the weight itself (it has one plane); of a dense weight it is unsupported.
// - integer input needs a quantised weight, and its groups must be the weight's groups (also when scales are per
// token).
// - the input's width is not carried by the params: that it is K is the recorder's to check (`check_linear_width`).
Status check_linear(const LinearParams& params);

// `width` of the input buffer against the weight's K; `what` names the op in the message.
Status check_linear_width(const PackedWeight& weight, int64_t width, const char* what);

}  // namespace qspec
