// Random contents for benchmarks, made on the device: time depends on data (zeros are faster), so nothing is timed on zeros.
#pragma once
#include "common/device.h"
#include "common/layout.h"

namespace qspec::cuda {

enum class RandomFill : int { kBits, kBf16, kScales };  // any bits; bfloat16 in about [-1.7, 1.7]; float32 near 1/64

Status fill_random(uint8_t* memory, size_t bytes, RandomFill fill, uint64_t seed);
// Every code random, scales such that a product keeps the size of its input.
Status fill_random_weight(const DeviceWeight& weight, uint8_t* memory, size_t bytes, uint64_t seed);

}  // namespace qspec::cuda
