#include "worker/probe_memory.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace skein {

int64_t last_cache_bytes() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<std::string> seen;  // by the cores that share one
  int64_t bytes = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed)) continue;
    const std::filesystem::path cache = "/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cache/index3";
    std::string sharers;
    int64_t kibibytes = 0;
    if (!std::getline(std::ifstream(cache / "shared_cpu_list"), sharers) || !seen.insert(sharers).second) continue;
    if (std::ifstream(cache / "size") >> kibibytes) bytes += kibibytes << 10;
  }
  return bytes;
}

double host_read_rate(int threads, int64_t bytes) {
  constexpr int kRounds = 5;
  constexpr size_t kStreams = 8;
  constexpr size_t kLanes = 8;
  constexpr size_t kGrain = kStreams * kLanes;
  const size_t words = static_cast<size_t>(bytes) / sizeof(uint64_t) / static_cast<size_t>(threads) / kGrain * kGrain;
  std::vector<std::vector<uint64_t>> parts(static_cast<size_t>(threads));
  std::atomic<uint64_t> kept = 0;  // so that nothing is optimised away
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    {
      std::vector<std::jthread> team;
      for (std::vector<uint64_t>& part : parts) {
        team.emplace_back([&, words] {
          if (part.empty()) part.assign(words, 1);
          std::array<uint64_t, kLanes> sums{};
          for (size_t i = 0; i < words / kStreams; i += kLanes) {
            for (size_t stream = 0; stream < kStreams; ++stream) {
              const uint64_t* from = part.data() + stream * (words / kStreams) + i;
              for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += from[lane];
            }
          }
          for (const uint64_t sum : sums) kept += sum;
        });
      }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const double read = static_cast<double>(words * sizeof(uint64_t)) * threads;
    // The first round fills the memory.
    if (round > 0) best = std::max(best, read / seconds.count());
  }
  return best;
}

}  // namespace skein
