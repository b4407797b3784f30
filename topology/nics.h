#pragma once

#include <string>
#include <vector>

#include "topology/cluster.h"
#include "topology/sysfs.h"

namespace skein {

// The NICs of a machine: ports of /sys/class/infiniband (InfiniBand, RoCE), then network interfaces of /sys/class/net
// that are not theirs. Interfaces that no hardware stands behind count only where there is no other, as in containers.
// Each knows which of the devices at `pci` (PCI addresses; empty: none) are nearest.
std::vector<Nic> discover_nics(const Sysfs& sysfs, const std::vector<std::string>& pci);

// The network interface of that name; where it does not tell its speed, with one that is assumed.
Nic interface_nic(const Sysfs& sysfs, const std::string& name);

// NUMA node of the device at that PCI address; -1: the kernel does not say.
int numa_of(const Sysfs& sysfs, const std::string& pci);

}  // namespace skein
