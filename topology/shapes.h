#pragma once

#include <array>
#include <map>
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

// Stages in one domain, next to each other in the pipeline.
struct StageRun {
  int domain = 0;  // index into the domains at hand
  int stages = 0;
};

// A replica's shape on certain kinds of devices and links, and what it does.
struct Shape {
  int tp = 1;
  std::vector<PlannedStage> stages = {};
  LinkKind group_link = LinkKind::kSelf;
  int kv_blocks = 0;
  Operation best = {};
  Operation lone = {};
  ReplicaLimits limits = {};
  std::optional<ReplicaCost> cost = {};  // valid as long as the book
  int devices() const { return tp * static_cast<int>(stages.size()); }
};

// Works out shapes of one model, each once. Single-owner.
class ShapeBook {
 public:
  ShapeBook(const PlanRequest& request, int model, const Relaxed& relaxed);

  // With these layers for the stages; none: the best ones. nullptr: the model does not fit or has other layers, or its
  // service level does not hold even for a lone request.
  const Shape* find(const std::vector<Domain>& domains, int tp, const std::vector<StageRun>& runs,
                    const std::vector<int>& layers = {});

  // The cost of a replica that was placed already. nullopt: nobody measured its devices, or nothing joins them.
  std::optional<ReplicaCost> cost_of(const PlacedReplica& replica);

  const ModelDemand& demand() const { return demand_; }
  std::vector<const Shape*> shapes() const;  // all found so far
  std::vector<double> latencies() const;  // of a lone request on each, ascending, each once
  int layers() const;

 private:
  struct Sites;
  const DeviceCalibration* device_of(int kind);
  struct CoreParts {
    int cores = 1;
    int ranks = 1;  // that share them evenly
  };
  std::optional<StageSite> site_on(const Device& device, const CoreParts& parts, int tp, const Path& inside,
                                   const Path& next);
  std::optional<Sites> sites_of(const std::vector<Domain>& domains, int tp, const std::vector<StageRun>& runs);
  std::optional<Shape> work_out(int tp, const Sites& sites);
  std::optional<Shape> with_layers(int tp, const std::vector<int>& layers, const Sites& sites);
  bool better(const Shape& a, const Shape& b) const;  // of two ways to deal out the layers
  std::optional<Shape> settle(int tp, const std::vector<int>& layers, const Sites& sites);
  const RankMemory& memory_of(const ShardPlan& shard, const MemoryRequest& request);
  double library_bytes(const StageSite& site, int tp, size_t stages, bool* assumed) const;
  MemoryRequest memory_request(const StageSite& site, int tp, size_t stages, bool* assumed) const;

  const PlanRequest& request_;
  const ModelDemand& demand_;
  const Relaxed relaxed_;
  const ModelFormats formats_;
  std::map<int, std::optional<DeviceCalibration>> devices_;  // by kind
  std::map<std::array<int64_t, 7>, RankMemory> memories_;  // of ranks, by what theirs depends on
  std::map<std::string, std::optional<Shape>> shapes_;
};

// Whether there is a backend for it: GPUs that are not known may be of the right generation.
bool backend_runs_on(const DeviceKind& kind);

// Text that is equal for ways that cost the same.
std::string path_key(const Path& path);

// Figures of kinds that were not measured come from the kind most like it, with its own ceilings. nullopt: it has none.
std::optional<DeviceCalibration> calibration_of(const DeviceKind& kind, const Calibration& calibration);

}  // namespace skein
