#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "topology/planner.h"

namespace skein {

// Of rates and times, relative: less is no difference.
inline constexpr double kNoise = 1e-9;

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

// A replica's shape on certain kinds of devices and links, and what it does.
struct Shape {
  int tp = 1;
  std::vector<PlannedStage> stages = {};
  LinkKind group_link = LinkKind::kSelf;
  int kv_blocks = 0;
  Operation best = {};
  Operation lone = {};
  ReplicaLimits limits = {};
  const ReplicaCost* cost = nullptr;  // valid as long as the book and those that share with it
  int devices() const { return tp * static_cast<int>(stages.size()); }
};

// Works out shapes of one model, each once. Single-owner.
class ShapeBook {
 public:
  ShapeBook(const PlanRequest& request, int model, const Relaxed& relaxed);
  // With other limits, for a request that differs in nodes, degrees, evenness of layers, share of memory or bytes of KV
  // cache at most; what these do not change is worked out once for both.
  ShapeBook(const PlanRequest& request, int model, const Relaxed& relaxed, const ShapeBook& other);

  // By stage, where and over what; with these layers, none: the best ones. nullptr: the model does not fit or has other
  // layers, or its service level does not hold even for a lone request.
  const Shape* find(const std::vector<const Domain*>& stages, int tp, const std::vector<StageWays>& ways,
                    const std::vector<int>& layers = {});
  // Whether it fits with the best layers, whatever its service level.
  bool fits(const std::vector<const Domain*>& stages, int tp, const std::vector<StageWays>& ways);
  // Less never holds the model, on however many ranks; 0 where memory is no limit.
  int64_t least_bytes() const { return relaxed_.memory ? 0 : weight_bytes_; }

  // The cost of a replica that was placed already. nullopt: nobody measured its devices, or nothing joins them.
  std::optional<ReplicaCost> cost_of(const PlacedReplica& replica);

  const ModelDemand& demand() const { return demand_; }
  std::vector<const Shape*> shapes() const;  // all found so far
  std::vector<double> latencies() const;  // of a lone request on each, ascending, each once
  int layers() const { return static_cast<int>(demand_.checkpoint->description().layers.size()); }
  int64_t evaluations() const;  // steady states worked out, by all books that share

 private:
  struct Entry {
    std::optional<Shape> shape;
    bool fits = false;
  };
  struct Sites;
  struct Worked;
  struct Shared;
  const DeviceCalibration* device_of(int kind);
  struct CoreParts {
    int cores = 1;
    int ranks = 1;  // that share them evenly
  };
  std::optional<StageSite> site_on(const Device& device, const CoreParts& parts, int tp, const StageWays& ways);
  std::optional<Sites> sites_of(const std::vector<const Domain*>& stages, int tp, const std::vector<StageWays>& ways);
  std::optional<Shape> work_out(int tp, const Sites& sites);
  std::optional<Shape> with_layers(int tp, const std::vector<int>& layers, const Sites& sites);
  bool better(const Shape& a, const Shape& b) const;  // of two ways to deal out the layers
  const Entry& entry(const std::vector<const Domain*>& stages, int tp, const std::vector<StageWays>& ways,
                     const std::vector<int>& layers);
  std::optional<Shape> settle(int tp, const std::vector<int>& layers, const Sites& sites);
  Worked& worked(const std::vector<int>& layers, const Sites& sites);
  Operation operate_at(Worked* worked, const ReplicaLimits& limits, int concurrency);
  const RankMemory& memory_of(const ShardPlan& shard, const MemoryRequest& request);
  double library_bytes(const StageSite& site, int tp, size_t stages, bool* assumed) const;
  MemoryRequest memory_request(const StageSite& site, int tp, size_t stages, bool* assumed) const;

  const PlanRequest& request_;
  const ModelDemand& demand_;
  const Relaxed relaxed_;
  const ModelFormats formats_;
  const int64_t weight_bytes_;
  bool fitted_ = false;  // some deal of layers, of the shape that is worked out
  std::shared_ptr<Shared> shared_;
  // By degree and by what each stage's site and ways are; by layers that are given.
  std::map<std::pair<std::vector<int>, std::vector<int>>, Entry> shapes_;
};

// Of the whole model, in the formats that take least.
int64_t weight_bytes(const ModelDemand& demand);

// Whether there is a backend for it: GPUs that are not known may be of the right generation.
bool backend_runs_on(const DeviceKind& kind);

// Text that is equal for ways that cost the same.
std::string path_key(const Path& path);

// Figures of kinds that were not measured come from the kind most like it, with its own ceilings. nullopt: it has none.
std::optional<DeviceCalibration> calibration_of(const DeviceKind& kind, const Calibration& calibration);

}  // namespace skein
