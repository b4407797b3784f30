#pragma once

#include <string>
#include <vector>

#include "coordinator/cli/model_files.h"
#include "coordinator/cli/serve_config.h"
#include "topology/planner.h"

namespace skein {

// Models placed onto a described cluster. Not to be moved: the request points into it.
struct Placement {
  Cluster cluster;
  Calibration calibration;
  std::vector<ModelFiles> models;
  PlanRequest request;
  PlacementPlan plan;

  Placement() = default;
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
};

// Finds the cluster file, the models and their demands; placement->plan stays empty. Requires:
// config.placement.cluster is not empty.
Status describe_placement(const ServeConfig& config, Placement* placement);
// All of it, for one model: as in the file that config.placement.plan names, or else the best.
Status make_placement(const ServeConfig& config, Placement* placement);

// A replica of the plan, its ranks by the names of their nodes.
ReplicaShape shape_of(const Placement& placement, const PlacedReplica& replica);

}  // namespace skein
