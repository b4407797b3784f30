#pragma once

#include <cuda_runtime.h>

#include <mutex>

#include "kernels/cuda/device.h"

namespace skein::cuda {

struct Grid {
  dim3 blocks;
  dim3 threads;
  size_t shared_bytes = 0;
  int cluster = 1;                // blocks of a cluster, along x
  CUstream_st* stream = nullptr;  // the device's unless given
};

// Queues `kernel` so that it may start while the launch before it ends: it must call wait_for_previous_launch().
template <typename... Parameters, typename... Arguments>
void launch(CudaDevice& device, const char* what, void (*kernel)(Parameters...), const Grid& grid,
            Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(grid.cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = grid.stream != nullptr ? grid.stream : device.stream();
  config.attrs = attributes;
  config.numAttrs = grid.cluster > 1 ? 2 : 1;
  device.check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
}

// Before a launch that takes more than 48 KiB of shared memory. Holds for the current device alone: ask every time.
// What was allowed stays: another thread's device may be about to launch the same kernel with more.
template <typename Kernel>
void allow_shared_memory(CudaDevice& device, Kernel* kernel, size_t bytes) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  cudaFuncAttributes attributes{};
  device.check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  if (attributes.maxDynamicSharedSizeBytes >= static_cast<int>(bytes)) return;
  device.check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
               "cudaFuncSetAttribute");
}

}  // namespace skein::cuda
