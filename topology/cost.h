#pragma once

#include <initializer_list>
#include <vector>

#include "model/shard.h"
#include "topology/calibration.h"
#include "topology/cluster.h"
#include "topology/memory.h"

namespace skein {

// Times of a replica's steps, from what its devices and links were measured to reach. All times in microseconds.
//
// A launch takes the larger of its bytes over the read rate and its FLOPs over the products' ceiling, divided by the
// share that such a launch reaches (topology/calibration.h). A step on a stage is the sum over its launches and sums;
// stages are added up, and with a lane of requests per stage in flight the slowest stage sets the pace:
//
//   step = max(sum of stages and hops, lanes x slowest stage)
//
// A rank on a part of a node's cores has that part of what they reach together; while other cores wait, each is faster
// (waiting_gain of the calibration), and a stage of several takes time to wake when its turn comes (wake_us). Of what a
// step on cores reads, caches hold the more the less it is (from_memory) and the sooner it is read again
// (cache_decay_bytes_per_s).

// How a group of ranks, or two stages, reach each other.
struct Exchange {
  const LinkCalibration* measured = nullptr;  // nullptr: by the path's latency and rate
  Path path = {};
  int ranks = 2;
};
// The entry that fits best: same device before any, then the fewest ranks that are not fewer, then the path that is
// described most alike. What is described at more than twice the rate, or less than half of it, is another path.
// nullptr: none was measured.
const LinkCalibration* find_link(const Calibration& calibration, const Path& path, std::string_view device, int ranks);
double all_reduce_us(const Exchange& exchange, double bytes);
double send_us(const Exchange& exchange, double bytes);

// Where a stage runs: all its ranks on one kind of device.
struct StageSite {
  const DeviceCalibration* device = nullptr;
  bool gpu = true;
  double cores = 1;       // of each rank; GPUs: 1
  double share = 1;       // of the device that a rank has: of a node's cores; GPUs: 1
  Exchange group = {};    // among its ranks; unused with one
  Exchange next = {};     // to the next stage; unused on the last
};

// What one lane's step does.
struct StepLoad {
  double decodes = 0;        // rows of one token
  double context = 0;        // keys that each of them reads
  double prompt_tokens = 0;
  double prompt_keys = 0;    // keys that each of these reads, on average
  double prompt_rows = 0;    // prompts that end in this step and are sampled
};

// Immutable.
class ReplicaCost {
 public:
  // Shards by world rank; one site a stage. Requires: shards.size() = sites.size() * tensor-parallel degree; formats
  // for every layer.
  ReplicaCost(const ModelDescription& model, const ModelFormats& formats, std::vector<ShardPlan> shards,
              std::vector<StageSite> sites);

  int stages() const { return static_cast<int>(sites_.size()); }
  bool on_gpus() const { return sites_.front().gpu; }
  // Of its slowest rank, while `lanes` stages are at work; of all stages, those alike worked out once.
  double stage_us(int stage, const StepLoad& load, int lanes) const;
  std::vector<double> stages_us(const StepLoad& load, int lanes) const;
  bool lanes_matter() const;  // to stages_us(): stages share a node's cores, or caches lose what is read later
  double hop_us(int stage, const StepLoad& load) const;  // from that stage to the next
  // A stage holds its device until the next one has taken what it hands on (NCCL); on cores it is left in memory.
  bool hands_over(int stage) const { return sites_[static_cast<size_t>(stage)].gpu; }
  // From the start of a lane's step to that of its next one, while `lanes` lanes with the same load are in flight.
  double step_us(const StepLoad& load, int lanes) const;
  double step_us(const StepLoad& load, int lanes, const std::vector<double>& stages_us) const;  // of the same
  double host_us() const { return sites_.front().device->host_us; }
  double request_us() const { return sites_.front().device->request_us; }

 private:
  struct Pace;
  struct Product;
  struct ProductSpeed;
  struct Layer;
  double weight_bytes(const ShardPlan& shard) const;
  // `again_us`: until a stage's weights are read again; 0: as soon as they can be.
  double from_memory(size_t stage, const StepLoad& load, double again_us) const;
  Pace pace_of(size_t stage, const StepLoad& load, int lanes, double again_us) const;
  double stage_us(size_t stage, const StepLoad& load, int lanes, double again_us, std::vector<Layer>* known) const;
  std::vector<double> stages_us(const StepLoad& load, int lanes, double again_us) const;
  bool caches_decay() const;
  double again_us(const StepLoad& load, int lanes) const;
  double layers_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load, std::vector<Layer>* known) const;
  double layer_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load, const LayerFormats& formats) const;
  double group_attention_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const;
  double attention_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const;
  double rows_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const;
  double ends_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const;
  double product_us(const Pace& pace, const Product& product, double tokens) const;
  double product_us(const Pace& pace, const Product& product, double tokens, const ProductSpeed& speed) const;
  double joined_us(const Pace& pace, std::initializer_list<Product> products, double tokens) const;

  ModelDescription model_;
  ModelFormats formats_;
  std::vector<int> alike_until_;   // by layer: the first one behind it with other formats
  std::vector<ShardPlan> shards_;  // by stage; ranks with equal parts once
  std::vector<StageSite> sites_;
  std::vector<double> reads_;      // by stage: bytes of a rank's weights
  double mean_read_ = 0;
  std::vector<double> kv_heads_;   // by stage: of a rank, of all layers together
  double mean_kv_heads_ = 0;
  int tp_;
};

}  // namespace skein
