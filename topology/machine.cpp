#include "topology/machine.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/host_memory.h"

namespace skein {
namespace {

// "AMD EPYC ...", as the kernel names it.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != line.npos) return line.substr(colon + 2);
  }
  return {};
}

int usable_cores() {
  cpu_set_t set;
  int cores = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");
  double quota = 0;
  double period = 0;
  if (quota_file >> quota >> period && period > 0) {
    cores = std::min(cores, std::max(1, static_cast<int>(std::lround(quota / period))));
  }
  return cores;
}

}  // namespace

Machine discover_machine(const char* nvml) {
  const HostMemory memory = host_memory();
  Machine machine{.cores = usable_cores(),
                  .memory_bytes = memory.available,
                  .memory_total_bytes = memory.total,
                  .processor = processor_name(),
                  .gpus = {},
                  .gpu_faults = {}};
  if (nvml != nullptr) machine.gpus = discover_gpus(nvml, &machine.gpu_faults);
  return machine;
}

}  // namespace skein
