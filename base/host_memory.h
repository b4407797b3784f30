#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace skein {

// In bytes, of the host, or of the tightest control group that holds this process (version 2, or version 1's root).
struct HostMemory {
  int64_t total = 0;
  int64_t available = 0;  // that can be had now: files that the kernel merely keeps are not in the way
};
// `root`: the folder that holds proc and sys.
HostMemory host_memory(const std::string& root = "/");

// "MemAvailable:   123 kB" of a file in /proc, in bytes; 0: not there.
int64_t proc_bytes(const std::string& path, std::string_view key);

}  // namespace skein
