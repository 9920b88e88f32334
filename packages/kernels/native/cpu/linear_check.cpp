#include <string>

#include "qspec/checks_linear.h"

namespace qspec {

namespace {

Status invalid(const std::string& message) { return {StatusCode::kInvalidArgument, "linear: " + message}; }
Status mismatch(const std::string& message) { return {StatusCode::kShapeMismatch, "linear: " + message}; }

std::string received(int64_t value) { return " but received " + std::to_string(value) + "."; }

bool is_dense(const PackedWeight& w) { return w.kind == WeightKind::kDenseF32 || w.kind == WeightKind::kDenseBf16; }

Status check_weight(const PackedWeight& w) {
  if (w.n < 1 || w.k < 1) return mismatch("expected a weight of at least 1 x 1" + received(w.n < 1 ? w.n : w.k));
  if (is_dense(w))
    return w.dense == nullptr ? invalid("expected the dense weight to have data but received null.") : Status::ok();
  if (w.group_size != 32 && w.group_size != 64 && w.group_size != 128) {
    return mismatch("expected the weight's `group_size` to be 32, 64 or 128" + received(w.group_size));
  }
  if (w.k % w.group_size != 0)
    return mismatch("expected `group_size` to divide " + std::to_string(w.k) + received(w.group_size));
  if (w.hi == nullptr || w.scales == nullptr)
    return invalid("expected the weight to have codes and scales but received null.");
  if (w.kind != WeightKind::kNested8) return {};
  if (w.lo == nullptr) return invalid("expected the nested weight to have a low plane but received null.");
  if (w.radix < 8 || w.radix > 15) return invalid("expected `radix` in 8..15" + received(w.radix));
  return {};
}

Status check_quantized_input(const PackedWeight& w, const QuantizedRows& x) {
  if (is_dense(w)) {
    return {StatusCode::kUnsupported,
            "linear: expected float input for a dense weight but received integer codes; quantise the weight or record "
            "a float input."};
  }
  if (x.codes == nullptr || x.scales == nullptr || x.sums == nullptr)
    return invalid("expected codes, scales and sums of the input but received null.");
  if (x.bits != 4 && x.bits != 8) return invalid("expected activations of 4 or 8 bits" + received(x.bits));
  if (x.group_size != w.group_size) {
    return mismatch("expected activations in the weight's groups of " + std::to_string(w.group_size) +
                    received(x.group_size) + " Quantise the input with the weight's group size.");
  }
  return {};
}

}  // namespace

Status check_linear_width(const PackedWeight& weight, int64_t width, const char* what) {
  if (width == weight.k) return {};
  return mismatch(std::string("expected the input of ") + what + " to have " + std::to_string(weight.k) + " columns" +
                  received(width));
}

Status check_linear(const LinearParams& p) {
  if (p.weight == nullptr) return invalid("expected a weight but received null.");
  QSPEC_RETURN_IF_ERROR(check_weight(*p.weight));
  if (p.rows < 0) return mismatch("expected `rows` to be at least 0" + received(p.rows));
  if ((p.input == nullptr) == (p.quantized_input == nullptr))
    return invalid("expected either a float or a quantised input, exactly one of them.");
  if (p.plane != Plane::kFull && p.plane != Plane::kHi)
    return invalid("expected plane 0 (full) or 1 (hi)" + received(static_cast<int>(p.plane)));
  if (p.plane == Plane::kHi && is_dense(*p.weight)) {
    return {StatusCode::kUnsupported,
            "linear: expected plane `full` for a dense weight but received `hi`; a dense weight has one plane."};
  }
  if (p.quantized_input != nullptr) QSPEC_RETURN_IF_ERROR(check_quantized_input(*p.weight, *p.quantized_input));
  if (p.output == nullptr) return invalid("expected an output buffer but received null.");
  if (p.output_column < 0) return mismatch("expected `output_column` to be at least 0" + received(p.output_column));
  if (p.output_stride < p.weight->n || p.output_column > p.output_stride - p.weight->n) {
    return mismatch("expected an output of at least " + std::to_string(p.weight->n) + " columns from column " +
                    std::to_string(p.output_column) + received(p.output_stride));
  }
  return {};
}

}  // namespace qspec
