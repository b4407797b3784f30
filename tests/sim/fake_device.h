#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/request.h"
#include "kvcache/kv_cache.h"
#include "worker/step_plan.h"

namespace skein::sim {

inline constexpr int kVocabulary = 50;

// What the fake model makes of a prefix: a number that depends on every token of it.
uint64_t extend(uint64_t prefix, int32_t token);

// The token that generated token `index` becomes; those that are forbidden are passed over.
int32_t choose(uint64_t prefix, uint64_t seed, int index, std::span<const int32_t> forbidden);
// Some prefixes have no finite probabilities.
bool broken(uint64_t prefix, uint64_t seed);
float score(uint64_t prefix, int32_t token);

// Runs plans as the ranks would, one at a time and in order, with a fake model. In place of keys
// and values, a position of a block holds a number computed from what was read, through the block
// table, at all positions before: whatever a plan gets wrong makes other tokens. Besides, every
// rule that a plan must hold to is checked when it is planned; the first breach is kept.
class FakeDevice {
 public:
  FakeDevice(std::vector<KvGroupConfig> groups, int slots, int step_tokens_max, int lane_steps_max);

  void plan(const StepPlan& plan);
  // Runs the oldest plan. Requires: in_flight() > 0.
  StepResult run();
  size_t in_flight() const { return plans_.size(); }
  const std::string& breach() const { return breach_; }

 private:
  struct Slot {
    std::vector<int32_t> tokens;
    SlotSampling sampling;
    std::vector<std::vector<int32_t>> tables;  // (groups)
  };
  // Who uses what until a step has run.
  struct Use {
    uint64_t step = 0;
    int lane = 0;
    std::set<int> slots;
    std::map<std::pair<int, int32_t>, std::set<int>> blocks;  // (group, block) -> slots
  };

  void expect(bool condition, const std::string& what);
  void check_reuse(const StepPlan& plan);
  void check_write(int slot, int group, int32_t block);
  Use note_use(const StepPlan& plan);
  void assign(std::vector<Slot>& slots, const StepPlan& plan);
  void compute(const PlanRow& row);
  SampledToken sample(const SampleRow& row);

  std::vector<KvGroupConfig> groups_;
  int step_tokens_max_;
  int lane_steps_max_;
  std::vector<Slot> planned_;  // tables as they are after every plan so far
  std::vector<Slot> slots_;    // as they are after every step that ran
  std::vector<std::vector<uint64_t>> memory_;  // (groups) (blocks, block_tokens)
  std::deque<StepPlan> plans_;
  std::deque<Use> uses_;
  uint64_t last_step_ = 0;
  std::string breach_;
};

}  // namespace skein::sim
