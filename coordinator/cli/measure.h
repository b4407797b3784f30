#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "topology/calibration.h"

namespace skein {

struct Measurement {
  Calibration calibration;
  std::vector<std::string> findings;  // where something reaches far less than its kind should
};

// Where and when something is measured: `machine`, by this program, today.
Source measured_here(const std::string& machine);

// Adds a finding where `what`, a subject with its verb ("TCP between a and b carries"), is measured to less than half of
// what is described.
void suspect(const std::string& what, double measured, double described, std::string (*readable)(double),
             std::vector<std::string>* findings);

// Times the devices of this machine (a cluster of one node, as discovered) and what joins them, with the skein-worker
// beside this program. Takes up to a minute, and all of the devices: nothing else should run on them.
Result<Measurement> measure(const Cluster& machine);

}  // namespace skein
