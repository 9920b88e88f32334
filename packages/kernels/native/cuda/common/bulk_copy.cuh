// Copies by the copy engine, global to shared memory, and the barriers in shared memory that count their bytes (sm_90).
#pragma once
#include "common/primitives.cuh"

#if defined(__CUDACC__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define QSPEC_HAS_BULK_COPY 1

namespace qspec::cuda {

// A phase of the barrier ends after `arrivals` arrivals and all bytes that were announced.
QSPEC_DEVICE void begin_counter(uint32_t at, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(at)), "r"(arrivals) : "memory");
}
// After begin_counter(), before others and the copy engine use it.
QSPEC_DEVICE void publish_counters() { asm volatile("fence.proxy.async;\nfence.mbarrier_init.release.cluster;" ::: "memory"); }
// True in one lane of the warp, all of which are here.
QSPEC_DEVICE bool elect_lane() {
  uint32_t is_elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, -1;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(is_elected));
  return is_elected != 0;
}
// One lane of the warp arrives, all of which are here.
QSPEC_DEVICE void arrive_of_warp(uint32_t at) {
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, -1;\n@p mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(shared_address(at)) : "memory");
}
// Arrives and announces bytes.
QSPEC_DEVICE void expect_bytes(uint32_t at, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(at)), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended.
QSPEC_DEVICE void wait_for_counter(uint32_t at, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra again;\n}" ::"r"(shared_address(at)), "r"(parity)
      : "memory");
}
// `bytes`: a multiple of 16, as are both addresses. What other threads wrote there before needs fence_bulk_copies() after the barrier with them.
QSPEC_DEVICE void copy_bulk(uint32_t to, const uint8_t* from, uint32_t bytes, uint32_t counter) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
               "r"(shared_address(counter))
               : "memory");
}
// The same to the same place of several blocks of the cluster, bit i of `blocks` block i's; each one's counter counts.
QSPEC_DEVICE void copy_bulk_to(uint32_t to, const uint8_t* from, uint32_t bytes, uint32_t counter, uint32_t blocks) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
               "r"(shared_address(counter)), "h"(static_cast<uint16_t>(blocks))
               : "memory");
}
// Arrives at the counter of a block of the cluster. Not more than that: what a warp read of shared memory is done before, and a release for the cluster is a fence for all memory.
QSPEC_DEVICE void arrive_at_block(uint32_t at, int block) {
  asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [r];\n}" ::"r"(shared_address(at)), "r"(block) : "memory");
}
QSPEC_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// All threads of all blocks of the cluster.
QSPEC_DEVICE void cluster_barrier() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
QSPEC_DEVICE void fence_bulk_copies() { asm volatile("fence.proxy.async;" ::: "memory"); }

}  // namespace qspec::cuda
#endif
