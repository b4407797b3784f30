#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "topology/gpus.h"

namespace skein {

// What this process may use of the machine it runs on.
struct Machine {
  int cores = 1;                 // of its affinity mask and cgroup quota
  int64_t memory_bytes = 0;      // that can be had now: MemAvailable, or what the cgroup leaves
  int64_t memory_total_bytes = 0;  // whoever uses it
  std::string processor;         // "AMD EPYC ..."
  std::vector<Gpu> gpus;
  std::vector<std::string> gpu_faults;  // of GPUs that are not among them: a sentence each
};

// Its GPUs as discover_gpus() has them. Null: they are not looked at, and nothing here waits for a driver.
Machine discover_machine(const char* nvml = "libnvidia-ml.so.1");

}  // namespace skein
