#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace skein {

struct Gpu {
  std::string name;  // "NVIDIA H200"
  int64_t memory_total = 0;
  int64_t memory_free = 0;
  int compute_major = 0;
  int compute_minor = 0;
  bool supported() const { return compute_major == 9; }  // what kernels/cuda is compiled for
};

// The NVIDIA GPUs of this machine, in the driver's order; none where there is no driver. Asks the driver's management
// library (NVML), which is loaded for the occasion: nothing here needs CUDA.
std::vector<Gpu> discover_gpus();

}  // namespace skein
