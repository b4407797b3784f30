#include "topology/machine.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

namespace skein {
namespace {

// The value of "key: value kB" or "key : text" in a /proc file.
std::string proc_field(const char* path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    if (colon != line.npos && begin != line.npos) return line.substr(begin);
  }
  return {};
}

std::optional<int64_t> read_integer(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

struct Memory {
  int64_t total = 0;
  int64_t available = 0;
};

Memory memory_of_machine() {
  Memory memory;
  std::istringstream(proc_field("/proc/meminfo", "MemTotal")) >> memory.total;
  std::istringstream(proc_field("/proc/meminfo", "MemAvailable")) >> memory.available;
  memory.total *= 1024;
  memory.available *= 1024;
  // The tightest of cgroup v2 and v1, where there is one.
  for (const auto& [limit_path, usage_path] :
       {std::pair{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        std::pair{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}}) {
    const auto limit = read_integer(limit_path);
    const auto usage = read_integer(usage_path);
    if (!limit || !usage) continue;
    memory.total = std::min(memory.total, *limit);
    memory.available = std::min(memory.available, std::max<int64_t>(*limit - *usage, 0));
  }
  return memory;
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

int64_t memory_available() { return memory_of_machine().available; }

Machine discover_machine(const char* nvml) {
  const Memory memory = memory_of_machine();
  return {.cores = usable_cores(),
          .memory_bytes = memory.available,
          .memory_total_bytes = memory.total,
          .processor = proc_field("/proc/cpuinfo", "model name"),
          .gpus = discover_gpus(nvml)};
}

}  // namespace skein
