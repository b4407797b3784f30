#include "base/host_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

namespace skein {
namespace {

std::optional<int64_t> read_integer(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// Of lines such as "inactive_file 123".
int64_t sum_of(const std::string& path, std::string_view first_key, std::string_view second_key) {
  std::ifstream file(path);
  std::string key;
  int64_t sum = 0;
  int64_t value = 0;
  while (file >> key >> value) {
    if (key == first_key || key == second_key) sum += value;
  }
  return sum;
}

void tighten(HostMemory* memory, std::optional<int64_t> limit, std::optional<int64_t> usage, int64_t kept_files) {
  if (!limit || !usage) return;
  memory->total = std::min(memory->total, *limit);
  const int64_t needed = *usage - std::min(kept_files, *usage);
  memory->available = std::min(memory->available, std::clamp<int64_t>(*limit - needed, 0, *limit));
}

// This process's group below the version 2 hierarchy: "/system.slice/skein-agent.service".
std::filesystem::path own_group(const std::string& root) {
  constexpr std::string_view kUnified = "0::/";
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(kUnified)) return line.substr(kUnified.size() - 1);
  }
  return "/";
}

}  // namespace

int64_t proc_bytes(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  int64_t kilobytes = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key) && std::istringstream(line.substr(key.size())) >> kilobytes) return kilobytes << 10;
  }
  return 0;
}

HostMemory host_memory(const std::string& root) {
  HostMemory memory{.total = proc_bytes(root + "/proc/meminfo", "MemTotal:"),
                    .available = proc_bytes(root + "/proc/meminfo", "MemAvailable:")};
  const std::string groups = root + "/sys/fs/cgroup";
  for (std::filesystem::path group = own_group(root);; group = group.parent_path()) {
    const std::string folder = groups + group.string();
    tighten(&memory, read_integer(folder + "/memory.max"), read_integer(folder + "/memory.current"),
            sum_of(folder + "/memory.stat", "inactive_file", "active_file"));
    if (!group.has_relative_path()) break;
  }
  const std::string first = groups + "/memory";
  tighten(&memory, read_integer(first + "/memory.limit_in_bytes"), read_integer(first + "/memory.usage_in_bytes"),
          sum_of(first + "/memory.stat", "total_inactive_file", "total_active_file"));
  return memory;
}

}  // namespace skein
