#pragma once

#include <optional>
#include <string>

#include "base/status.h"
#include "comm/messages.h"

namespace skein {

// Of an agent that a machine's service manager starts, in a cluster of several nodes.
struct NodeAgentConfig {
  std::string key_file;      // its own pair; its leaders use it, too
  ConnectKeys keys;          // read from there
  std::string interface;     // base/network.h; empty: the one that leads to the coordinator
  double orphan_seconds = 600;  // without a coordinator so long, a replica that serves is ended
  double driver_seconds = 30;   // that the GPU driver may take to answer
};

struct AgentConfig {
  std::string name = "local";
  std::string coordinator;    // endpoint
  std::string run_folder;     // private; jobs' files go there
  double lease_seconds = 2;   // without a sign of the coordinator so long, every job is killed; in a cluster, every job
                              // whose replica does not serve yet
  std::string worker;         // path of skein-worker; empty: beside this program
  std::optional<NodeAgentConfig> node;  // none: `skein serve` started it, for its own machine
};

// `skein agent`: starts and fences this node's MPI jobs for a coordinator. One thread. Returns when the coordinator
// asks it to stop (its own machine's), on SIGTERM, when its lease is over, or when the coordinator refuses it; no job
// outlives it.
Status run_agent(const AgentConfig& config);

// `skein rsh HOST COMMAND...`: what mpirun starts orted on another node with. Hands the command line to this node's
// agent, whose socket SKEIN_RSH names, and waits for its answer.
Status run_rsh(const std::string& host, const std::string& command);

}  // namespace skein
