#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

// Thread block clusters: who I am, barriers of all threads, and the other blocks' shared memory (PTX ISA 9.0,
// "barrier.cluster", "mapa", "st", "atom").

namespace skein::cuda {

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// What threads of the cluster wrote before they arrive is seen by those that have waited. Threads that have exited
// count as arrived. The first use of another block's memory comes behind such a barrier: the block must run.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
// Orders nothing that was written.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Writes to shared memory of any block before it are seen by all threads of the cluster after it.
__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The address that `mine` has in block `rank` of the cluster.
__device__ __forceinline__ uint32_t shared_address_of(const void* mine, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(mine)), "r"(rank));
  return address;
}
__device__ __forceinline__ void store_to(uint32_t address, uint32_t value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ void store_to(uint32_t address, uint64_t value) {
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(address), "l"(value) : "memory");
}
__device__ __forceinline__ uint32_t add_at(uint32_t address, uint32_t value) {
  uint32_t before;
  asm volatile("atom.shared::cluster.add.u32 %0, [%1], %2;" : "=r"(before) : "r"(address), "r"(value) : "memory");
  return before;
}

// A store to another block's shared memory that counts as 16 bytes at a barrier of that block.
__device__ __forceinline__ void store_and_count(uint32_t address, const float4& value, uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
      "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(barrier)
      : "memory");
}

// Without a scope: releasing to the cluster would wait for all of the thread's writes to memory.
__device__ __forceinline__ void arrive_at_rank(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// A box for all blocks of the cluster whose bit is set, at the same place in each, counted at the same barrier of each.
__device__ __forceinline__ void tensor_multicast_2d(void* to, const CUtensorMap* map, int c0, int c1,
                                                    uint64_t* barrier, uint32_t mask, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "h"(static_cast<uint16_t>(mask)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void tensor_multicast_3d(void* to, const CUtensorMap* map, int c0, int c1, int c2,
                                                    uint64_t* barrier, uint32_t mask, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "h"(static_cast<uint16_t>(mask)), "l"(policy)
      : "memory");
}

}  // namespace skein::cuda
