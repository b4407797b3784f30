#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/checkpoint.h"
#include "topology/burst.h"
#include "topology/cluster.h"
#include "topology/service.h"

namespace skein {

// Which devices of a cluster run which rank of which replica. topology/README.md says how the search works, where it is
// exact, and what it leaves out.

enum class Objective : uint8_t {
  kGoodput,        // the most requests/s at which the service level holds
  kFewestDevices,  // for the load's request rate
  kLatency,        // the shortest time of a lone request, then the most goodput
};

// A model and what is asked of it.
struct ModelDemand {
  std::string name;
  const Checkpoint* checkpoint = nullptr;
  Load load = {};
  ServiceLevel level = {};
  MemoryRequest memory = {};  // dtype, kv_cache_dtype, block_tokens, slots, step_tokens_max, context_max,
                              // kv_bytes_per_rank
  int tensor_parallel_size = 0;    // asked for; 0: any
  int pipeline_parallel_size = 0;
};

// Devices of a node that may be used: all, or some of its GPUs.
struct NodePart {
  std::string node;
  int first = 0;
  int last = INT32_MAX;
};

// No parts: everything may.
bool may_use(const std::vector<NodePart>& parts, const std::string& node, int device);

struct PlanRequest {
  const Cluster* cluster = nullptr;
  const Calibration* calibration = nullptr;
  std::vector<ModelDemand> models;   // several: each with a request rate, or for the lowest latency
  Objective objective = Objective::kGoodput;
  double memory_share = 0.9;         // of a GPU's memory that a rank may fill
  std::vector<NodePart> nodes = {};  // that may be used; empty: all
  int burst_prompts = 0;             // PlacedReplica::burst is for so many; 0: none
  bool even_layers = false;          // stages as plan_shards() deals them, instead of the fastest ones
};

struct PlannedStage {
  int layers = 0;
  RankMemory memory;   // of its fullest rank
  LinkKind to_next = LinkKind::kSelf;
  bool runtime_assumed = false;  // nobody measured what communicators take over its links
};

struct PlacedReplica {
  int model = 0;  // index into PlanRequest::models
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
  std::vector<DeviceId> devices;     // by world rank; of a node of cores: the first of a rank's part
  std::vector<PlannedStage> stages;
  LinkKind group_link = LinkKind::kSelf;  // among the ranks of a stage
  int kv_blocks = 0;
  Operation best;                    // at the highest rate at which the level holds
  Operation lone;                    // one request at a time
  Burst burst = {};                  // PlanRequest::burst_prompts at once
};

// What all replicas of a model do.
struct ModelOutcome {
  double request_rate_max = 0;  // at which the level holds
  double request_rate = 0;      // that was asked for, else the highest
  double ttft_ms = 0;           // at request_rate, replicas sharing it by what they can do; the worst of them
  double itl_ms = 0;
  double output_rate = 0;       // tokens/s
  int devices = 0;
};

// Another plan, and how it compares. `change`: of the objective's figure, +0.1 is a tenth better.
struct Alternative {
  std::string what;  // "TP 2 x PP 1"
  int replicas = 0;
  ModelOutcome outcome;
  double change = 0;
};

// What the best plan would be without a constraint.
struct ConstraintCost {
  std::string constraint;  // "TTFT of 200 ms"
  double gain = 0;         // of the objective's figure; 0: the constraint costs nothing
  std::string without;     // what would be chosen
};

struct ModelPlan {
  ModelOutcome outcome;
  std::vector<Alternative> alternatives;    // the five best
  std::vector<ConstraintCost> constraints;
};

struct PlacementPlan {
  std::vector<PlacedReplica> replicas;
  std::vector<ModelPlan> models;
  std::vector<DeviceId> left_over;
  std::vector<std::string> notes;  // what else there is to know, a sentence each
  int moved = 0;  // replanned: replicas that had to give up a place that was still there
};

// What a rank on that device may fill: of a GPU `memory_share` less what others hold, of a node of cores all but a
// reserve, of what is free where that is known.
int64_t usable_memory(const Cluster& cluster, DeviceId device, double memory_share);

// kResourceExhausted says what is missing and what to change; kInvalidArgument names what makes no sense (a degree that
// the model cannot take, a device without ceilings, a node that is not there).
Result<PlacementPlan> plan_placement(const PlanRequest& request);

// The same for a cluster that has changed since `previous` was made for `old_cluster`: replicas whose devices are all
// there, and which can serve there, stay where they are with their layers; few of them move so that the load holds
// (topology/README.md). What it refuses, plan_placement() refuses.
Result<PlacementPlan> replan(const PlanRequest& request, const Cluster& old_cluster, const PlacementPlan& previous);

}  // namespace skein
