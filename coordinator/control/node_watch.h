#pragma once

#include <chrono>
#include <string>

#include "base/network.h"
#include "base/replica_spec.h"
#include "base/status.h"
#include "comm/wire.h"
#include "topology/gpus.h"
#include "topology/node_report.h"

namespace skein {

// What `spec` takes of a node.
LaunchShare share_of(const ReplicaSpec& spec, const std::string& node);

// Whether the devices of a share are there, run our kernels and have the memory. kResourceExhausted, kUnsupported: one
// sentence with the remedy.
Status check_share(const LaunchShare& share, const std::vector<Gpu>& gpus);

// An agent's eyes on its node. Single-owner: the agent.
class NodeWatch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit NodeWatch(DiscoveryRoots roots = {});

  // RegisterAgent::topology. Takes up to seconds where there are GPUs.
  std::string describe(const std::string& name, const Interface& interface) const;
  // Fills in what is free, as of at most two seconds ago.
  void look(Clock::time_point now, AgentStatus* status);
  // check_share() of this node's GPUs as they are now.
  Status check(const LaunchShare& share) const;

 private:
  const DiscoveryRoots roots_;
  const GpuWatch gpus_;
  Clock::time_point next_look_;
  AgentStatus seen_;
};

}  // namespace skein
