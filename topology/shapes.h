#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "topology/domains.h"
#include "topology/planner.h"

namespace skein {

// Of rates and times, relative: less is no difference.
inline constexpr double kNoise = 1e-9;

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

// Figures of kinds that were not measured come from the kind most like it, with its own ceilings. nullopt: it has none.
std::optional<DeviceCalibration> calibration_of(const DeviceKind& kind, const Calibration& calibration);

}  // namespace skein
