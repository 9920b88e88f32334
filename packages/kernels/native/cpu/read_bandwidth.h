// How fast this machine reads memory: the denominator of every byte limit.
#pragma once
#include "cpu/thread_pool.h"
#include "qspec/status.h"

namespace qspec::cpu {

// Bytes a second of large sequential reads shared by all threads of `pool`: the median of several passes over a buffer of `bytes`,
// which should be several times the last-level cache.
Status measure_read_bandwidth(ThreadPool& pool, size_t bytes, double* bytes_per_second);

}  // namespace qspec::cpu
