#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/network.h"
#include "base/status.h"
#include "comm/communicator.h"
#include "comm/rank_socket.h"

namespace skein {

// What a replica over several nodes needs to know beside its shape. Each function is collective over the replica.
struct NodesConfig {
  std::string network;                 // base/network.h: the interface between the nodes
  PortRange ports;                     // of the ranks' listeners
  std::vector<std::string> hosts;      // by rank: equal where ranks share memory
  std::vector<std::string> names;      // by rank, for sentences: "rank 2 on node-c"
  LostPeer lost;
  // Every rank's bytes, by rank.
  std::function<std::vector<std::string>(const std::string&)> all_gather;
  std::function<void()> barrier;
};

// A communicator of ranks on different nodes: a connection for each stream. A tensor-parallel group that shares one
// node's memory adds there. Plain TCP: whoever can read or change packets between the nodes can do so with activations.
Result<std::unique_ptr<Communicator>> connect_nodes(const CommunicatorConfig& config, NodesConfig nodes);

}  // namespace skein
