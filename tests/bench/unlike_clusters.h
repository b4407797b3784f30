#pragma once

#include "topology/cluster.h"

namespace skein::bench {

// Clusters in which hardly a node is like another, made from one whose nodes are; the same in every run.

// Free memory of each node's GPUs between these, in MiB.
Cluster with_free_memory(Cluster cluster, int least_mib, int most_mib);

// Rates of NICs by node, up to a twentieth below what is described.
Cluster with_nic_rates(Cluster cluster);

// One to all of each node's devices, any of them.
Cluster with_some_devices(Cluster cluster);

// Nodes of so many types: sockets dealt out to devices, NICs, NVLinks that are up and the kind's ceilings differ.
Cluster with_node_types(Cluster cluster, int types);

}  // namespace skein::bench
