#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "topology/planner.h"

namespace skein {

// A plan as JSON: for other programs, to be checked and to plan again from after the cluster has changed.

Json to_json(const PlanRequest& request, const PlacementPlan& plan);

// What a plan file says of places, and what it was planned for; its figures are not read back.
struct PlanFile {
  Cluster cluster;      // names and kinds of devices only
  std::vector<std::map<std::string, std::string>> hardware;  // hardware_of() each node
  PlacementPlan plan;   // replicas: model, degrees, devices, layers, blocks
  std::vector<ModelDemand> models;  // names, loads, levels
};

// kInvalidArgument names what is missing or out of range.
Result<PlanFile> parse_plan(std::string_view json);
Result<PlanFile> read_plan_file(const std::string& path);

// kInvalidArgument with the first difference between the cluster that the plan was made for and `cluster`.
Status check_unchanged(const PlanFile& file, const Cluster& cluster);

}  // namespace skein
