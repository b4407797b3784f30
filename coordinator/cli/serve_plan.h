#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/replica_spec.h"
#include "base/status.h"
#include "coordinator/cli/model_files.h"
#include "coordinator/cli/placement.h"
#include "coordinator/cli/serve_config.h"
#include "model/shard.h"
#include "topology/machine.h"
#include "topology/memory.h"

namespace skein {

struct PlannedReplica {
  ReplicaSpec spec;
  std::vector<ShardPlan> shards;
  MemoryPlan memory;
};

// A model found, and its replicas planned: for this machine, for the places that the configuration names, or where the
// planner puts them.
struct ServePlan {
  ServeConfig config;
  Machine machine;
  ModelFiles model;
  std::shared_ptr<const Placement> placement;  // by the planner; replicas in its order. Null: by the configuration
  std::vector<PlannedReplica> replicas;
  int context_max = 0;  // that every replica can hold
  std::vector<std::string> notes = {};  // what the user may not expect, a sentence each
};

// What a user can do where agents cannot be asked about places.
inline constexpr char kSayDevice[] = "say where ranks run with --device cpu, or --device cuda and kv-cache-memory-bytes";

// Whether make_serve_plan() takes what the agents report of their nodes: to place replicas there, or to know whether
// places that the configuration names are GPUs, and what these hold.
bool needs_nodes(const ServeConfig& config);

// "cpu" or "cuda": what the nodes have where the configuration places ranks.
Result<std::string> device_of_places(const ServeConfig& config, const Cluster& nodes);

// Refuses, with the numbers, what cannot run; nothing has been loaded by then. `nodes`: of the agents that came, where
// needs_nodes(config).
Result<ServePlan> make_serve_plan(const ServeConfig& config, const Cluster* nodes = nullptr);

// What would run where, and notes, for people.
std::string describe(const ServePlan& plan);
// The notes alone, in the log.
void log_notes(const ServePlan& plan);

// "SmolLM2-135M-Instruct.Q4_1" for /models/SmolLM2-135M-Instruct.Q4_1.gguf
std::string default_model_name(const ServeConfig& config);

}  // namespace skein
