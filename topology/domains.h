#pragma once

#include <optional>
#include <string>
#include <vector>

#include "topology/planner.h"

namespace skein {

// Devices that a stage's ranks may come from: of one node and one kind, joined by NVLink where there is any. Of a node
// of cores each stands for a rank's part of them, and is the first core of that part.
struct Domain {
  int node = 0;
  int kind = 0;
  std::vector<int> devices;  // free ones, in the order in which they are given out
  int group_max = 1;         // tensor-parallel ranks
  int64_t memory = 0;        // that a rank may fill
  Path inside = {};          // the slowest among them
  bool joined = true;        // all over NVLink, or alone
  int whole = 0;             // index of the domain that this is a part of: a stage's ranks may come from all its parts
  std::string compute = {};  // equal where a rank takes as long for the same
  std::string site = {};     // ... and may fill as much memory
  std::string layout = {};   // equal where nothing but racks and other nodes tells the ways of their devices apart
  std::string key = {};      // equal for domains that nothing but their links to others tells apart
  int size() const { return static_cast<int>(devices.size()); }
};

// Ranks that share a node of so many cores evenly: one, whose threads share what ranks would have to exchange, or as
// many as the degrees that are asked for need of each node.
int ranks_of_cores(const PlanRequest& request, size_t cores);

// Limits that are lifted to learn what they cost.
struct Relaxed {
  bool group_over_pcie = false;  // tensor parallelism where there is no NVLink
  bool memory = false;
  bool ttft = false;
  bool itl = false;
  bool sequences = false;
};

// The free devices of the nodes that may be used.
std::vector<Domain> domains_of(const PlanRequest& request, const std::vector<DeviceId>& taken, const Relaxed& relaxed);

Path worst_path(const Cluster& cluster, const Domain& domain);

// Stages in one domain, next to each other in the pipeline.
struct StageRun {
  int domain = 0;  // index into the domains at hand
  int stages = 0;
};

// The slowest ways that a stage's ranks have to each other, and to the same ranks of the next stage.
struct StageWays {
  Path group = {};  // of one rank: to itself
  Path next = {};   // of the last stage: as to it
};

// By stage, of devices in the order of their ranks. nullopt: nothing joins two of them.
std::optional<std::vector<StageWays>> ways_of(const Cluster& cluster, int tp, const std::vector<DeviceId>& devices);

// Whether there is a backend for it: GPUs that are not known may be of the right generation.
bool backend_runs_on(const DeviceKind& kind);

// Text that is equal for ways that cost the same.
std::string path_key(const Path& path);

}  // namespace skein
