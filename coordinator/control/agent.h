#pragma once

#include <string>

#include "base/status.h"

namespace skein {

struct AgentConfig {
  std::string coordinator;    // endpoint
  std::string run_folder;     // private; spec files go there
  double lease_seconds = 2;   // without a sign of the coordinator so long, every job is killed
  std::string worker;         // path of skein-worker; empty: beside this program
};

// `skein agent`: starts and fences this node's MPI jobs for a coordinator. One thread. Returns when the coordinator
// asks it to stop, on SIGTERM, or when its lease is over; no job outlives it.
Status run_agent(const AgentConfig& config);

}  // namespace skein
