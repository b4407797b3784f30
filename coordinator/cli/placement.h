#pragma once

#include <set>
#include <string>
#include <vector>

#include "coordinator/cli/model_files.h"
#include "coordinator/cli/serve_config.h"
#include "topology/plan_file.h"

namespace skein {

// Models placed onto a described cluster. Not to be moved: the request points into it.
struct Placement {
  Cluster cluster;
  Calibration calibration;
  std::vector<ModelFiles> models;
  PlanRequest request;
  PlacementPlan plan;
  std::vector<std::string> notes;  // of what was planned with: Discovery::notes, calibrations that are of no use

  Placement() = default;
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
};

// What plans call a model: "llama-3.1-8b" for configs/models/llama-3.1-8b/.
std::string short_name(const std::string& model);

// Refuses a plan file, read from `path`, without a replica of the model that is called so.
Status check_places(const PlanFile& file, const std::string& path, const std::string& model);

// "NODE", "NODE:1", "NODE:0-3" of --nodes. What is no number or two behind the last colon is part of the name, and so
// is all where one of `nodes` has that name.
NodePart parse_node_part(const std::string& text, const std::set<std::string>& nodes);

// What `cluster` of a configuration names: a file, or this machine as it is found (kClusterHere), with
// Discovery::notes.
Result<Cluster> read_cluster(const std::string& name, std::vector<std::string>* notes = nullptr);

// Finds the models and their demands, and reads the cluster file unless placement->cluster has nodes; placement->plan
// stays empty.
Status describe_placement(const ServeConfig& config, Placement* placement);
// All of it, for one model: as in the file that config.placement.plan names, or else the best; with `replan` as much as
// can be of the file, which is written again. Figures of a plan that was read are not there.
Status make_placement(const ServeConfig& config, Placement* placement);

// What the replicas of a plan run on.
struct UsedDevices {
  bool gpus = false;
  bool cores = false;
};
UsedDevices used_devices(const Placement& placement);

// Refuses a device or number formats that the plan's devices do not have.
Status check_backends(const ServeConfig& config, const Placement& placement);
// Refuses formats that the CUDA backend does not compute in.
Status check_gpu_formats(const ServeConfig& config);
// Refuses a model whose sizes its kernels do not take.
Status check_gpu_model(const ModelDescription& model);

// Of the plan, and of what it was planned with.
std::vector<std::string> all_notes(const Placement& placement);
// The plan file, with all notes.
Json plan_json(const Placement& placement);

// A replica of the plan, its ranks by the names of their nodes.
ReplicaShape shape_of(const Placement& placement, const PlacedReplica& replica);

}  // namespace skein
