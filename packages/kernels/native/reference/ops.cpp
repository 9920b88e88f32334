#include "qspec/ops.h"

#include "common.h"

namespace qspec {

const OpTable& reference_ops() {
  using namespace reference;
  static const OpTable table = {"reference", embedding,     gather_rows, rms_norm, transform,
                                linear,      rope_kv_write, attention,   silu_mul};
  return table;
}

}  // namespace qspec
