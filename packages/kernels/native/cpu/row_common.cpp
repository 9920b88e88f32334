#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "row_ops.h"

namespace qspec::cpu {

void gather_rows(const GatherRowsParams& params, Part part) {
  const int64_t begin = params.rows * part.index / part.count, end = params.rows * (part.index + 1) / part.count;
  for (int64_t row = begin; row < end; ++row) {
    std::memcpy(params.output + row * params.width, params.input + params.row_index[row] * params.width,
                params.width * sizeof(float));
  }
}

namespace {
struct Scratch {
  void* memory = nullptr;
  float* aligned = nullptr;
  size_t capacity = 0;
  ~Scratch() { std::free(memory); }
};
}  // namespace

float* thread_scratch(ScratchUse use, size_t num_floats) {
  thread_local Scratch regions[4];
  Scratch& region = regions[static_cast<int>(use)];
  if (region.capacity < num_floats) {
    std::free(region.memory);
    const size_t capacity = num_floats + num_floats / 2 + 64;
    region.memory = std::calloc(capacity + 16, sizeof(float));
    if (region.memory == nullptr) std::abort();  // a few hundred KB: the machine is beyond help
    region.aligned = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(region.memory) + 63) & ~uintptr_t{63});
    region.capacity = capacity;
  }
  return region.aligned;
}

void fill_rope_table(const float* inverse_frequencies, int count, int32_t position, float factor, float* cosines,
                     float* sines) {
  for (int i = 0; i < count; ++i) {
    // In quarter turns: the nearest whole one picks the quadrant, the rest lies in [-pi/4, pi/4].
    const double quarters = static_cast<double>(position) * inverse_frequencies[i] * 0.63661977236758134308;
    const double whole = std::floor(quarters + 0.5);
    const float r = static_cast<float>((quarters - whole) * 1.57079632679489661923), r2 = r * r;
    const int quadrant = static_cast<int>(static_cast<int64_t>(whole) & 3);
    const float sine = r + r * r2 * (-1.6666654611e-1f + r2 * (8.3321608736e-3f + r2 * -1.9515295891e-4f));
    const float cosine =
        1 - 0.5f * r2 + r2 * r2 * (4.166664568298827e-2f + r2 * (-1.388731625493765e-3f + r2 * 2.443315711809948e-5f));
    const float c = quadrant & 1 ? sine : cosine, s = quadrant & 1 ? cosine : sine;
    cosines[i] = (quadrant == 1 || quadrant == 2 ? -c : c) * factor;
    sines[i] = (quadrant >= 2 ? -s : s) * factor;
  }
}

int64_t sink_unit(const RowSink& sink, int64_t width, int64_t granule) {
  if (sink.quantized.codes != nullptr && sink.quantized.per_token) return width;
  int64_t unit = granule;
  if (sink.hadamard_block > 0) unit = std::lcm(unit, int64_t{sink.hadamard_block});
  if (sink.quantized.codes != nullptr) unit = std::lcm(unit, int64_t{sink.quantized.group_size});
  return unit;
}

}  // namespace qspec::cpu
