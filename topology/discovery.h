#pragma once

#include <string>
#include <vector>

#include "topology/cluster.h"

namespace skein {

// Where discovery looks; tests have recorded machines.
struct DiscoveryRoots {
  std::string sysfs = "/sys";
  std::string dev = "/dev";
  std::string nvml = "libnvidia-ml.so.1";
};

struct Discovery {
  Cluster cluster;                 // of one node, called as the host is
  std::vector<std::string> notes;  // what the operator should know and the cluster cannot say
};

// What this machine has: GPUs and what joins them from NVML, NICs and distances from sysfs; without a GPU its cores are
// the devices. `kinds`: descriptions that go before those of known GPUs. The figures of a GPU that is known to neither
// stay 0, and a note says what to do.
Discovery discover(const std::vector<DeviceKind>& kinds = {}, const DiscoveryRoots& roots = {});

}  // namespace skein
