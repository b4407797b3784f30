#include "coordinator/control/node_watch.h"

#include <algorithm>
#include <cstdlib>

#include "base/log.h"
#include "topology/machine.h"
#include "topology/memory.h"

namespace skein {
namespace {

constexpr auto kLookPeriod = std::chrono::seconds(2);

}  // namespace

LaunchShare share_of(const ReplicaSpec& spec, const std::string& node) {
  LaunchShare share{.gpus = spec.device == "cuda"};
  const std::vector<int64_t>& bytes = spec.rank_memory_bytes;
  for (size_t rank = 0; rank < spec.places.size(); ++rank) {
    if (spec.places[rank].node != node) continue;
    share.devices.push_back(static_cast<uint32_t>(spec.places[rank].device));
    if (!bytes.empty()) share.device_bytes.push_back(static_cast<uint64_t>(bytes[rank]));
  }
  return share;
}

Status check_share(const LaunchShare& share, const std::vector<Gpu>& gpus) {
  if (!share.gpus) return {};
  if (gpus.empty()) return unsupported("it has no NVIDIA GPU with a driver: use --device cpu, or other places");
  for (size_t i = 0; i < share.devices.size(); ++i) {
    const uint32_t device = share.devices[i];
    const uint64_t needed = share.device_bytes.empty() ? 0 : share.device_bytes[i];
    const std::string what = "GPU " + std::to_string(device);
    if (device >= gpus.size()) {
      return unsupported("there is no " + what + ", for it has " + std::to_string(gpus.size()) +
                         ", counted from 0: correct places");
    }
    const Gpu& gpu = gpus[device];
    if (!gpu.supported()) {
      return unsupported("its " + what + " (" + gpu.name + ") has compute capability " +
                         std::to_string(gpu.compute_major) + "." + std::to_string(gpu.compute_minor) +
                         ", and the CUDA backend needs 9.0 (H100, H200, GH200): use other places");
    }
    if (static_cast<uint64_t>(gpu.memory_free) < needed) {
      return resource_exhausted("its " + what + " has " + readable_bytes(gpu.memory_free) + " free of " +
                                readable_bytes(gpu.memory_total) + " where a rank needs " +
                                readable_bytes(static_cast<int64_t>(needed)) +
                                ": end what else runs there, or place it elsewhere");
    }
  }
  return {};
}

NodeWatch::NodeWatch(DiscoveryRoots roots) : roots_(std::move(roots)), gpus_(roots_.nvml.c_str()) {}

std::string NodeWatch::describe(const std::string& name, const Interface& interface) const {
  const NodeReport report = report_node(name, interface, roots_);
  for (const std::string& finding : report.findings) log_warning("agent: " + finding);
  return to_text(report);
}

void NodeWatch::look(Clock::time_point now, AgentStatus* status) {
  if (now >= next_look_) {
    next_look_ = now + kLookPeriod;
    seen_.memory_free = static_cast<uint64_t>(std::max<int64_t>(memory_available(), 0));
    seen_.gpu_memory_free.clear();
    for (const Gpu& gpu : gpus_.look()) seen_.gpu_memory_free.push_back(static_cast<uint64_t>(gpu.memory_free));
  }
  status->memory_free = seen_.memory_free;
  status->gpu_memory_free = seen_.gpu_memory_free;
}

Status NodeWatch::check(const LaunchShare& share) const {
  if (share.gpus && std::getenv("CUDA_VISIBLE_DEVICES") != nullptr) {
    return unsupported("its agent has CUDA_VISIBLE_DEVICES set, and places count all GPUs of the node: unset it");
  }
  return check_share(share, gpus_.look());
}

}  // namespace skein
