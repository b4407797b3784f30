#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/replica_spec.h"
#include "base/status.h"
#include "comm/collectives.h"
#include "comm/communicator.h"
#include "kernels/ops.h"
#include "model/checkpoint.h"
#include "model/shard.h"
#include "worker/step_plan.h"

namespace skein {

// How this rank meets the others.
struct RankLinks {
  Communicator& communicator;
  Collectives& collectives;
  // The smallest of the ranks' values, on every rank. Collective.
  std::function<int64_t(int64_t)> minimum;
  const PeerGroup* peers = nullptr;  // of the tensor-parallel group, or null; Ops::join_peers()
};

// One rank's device, weights, pages and state; turns step plans into launches. Single-owner: the executor thread, the
// only one that launches compute.
class Executor {
 public:
  // Takes all memory that it will ever take; where spec.kv_blocks is 0, pages for warm_up_plan() alone until
  // size_pages(). `device`, which `ops` opened, and what `links` refers to must outlive it.
  static Result<std::unique_ptr<Executor>> create(const ReplicaSpec& spec, const Checkpoint& checkpoint,
                                                  const ShardPlan& shard, const Ops& ops, Device& device,
                                                  const RankLinks& links);
  ~Executor();

  int kv_blocks() const;
  int64_t device_bytes() const;

  // Queues this rank's part of the step; the device may still be at work on the steps before. An error ends the
  // replica.
  // Requires: plans come in order, the same on every rank; fewer than kStepsMax in flight.
  static constexpr int kStepsMax = 4;
  Status launch(const StepPlan& plan);
  int in_flight() const;
  // The oldest step in flight, once the device is done with it. Samples are there on the last stage's first rank.
  Result<std::optional<StepResult>> finish();
  // Launches and waits for it. Requires: nothing in flight.
  Result<StepResult> run(const StepPlan& plan);
  // Records decode steps of every size, so that launching one costs the host next to nothing. After a step has run,
  // which makes devices load what they load late. Collective.
  Status record_decode_steps();
  // Where spec.kv_blocks is 0: gives pages what spec.memory_share of the device leaves beside all else, of which
  // warm_up_plan() and the recordings have taken the most that they will; every rank then has the same number of them.
  // What pages held is gone. Collective.
  Status size_pages();

 private:
  struct State;
  explicit Executor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Receives plans until the stop plan and runs them, two ahead of the device. `answers`: this rank sends results.
Status serve_plans(Executor& executor, Communicator& communicator, bool answers);

// A step that touches every weight: what a rank must survive before it is ready. One token, or where pages are to be
// sized behind it, a prompt as long as a step can be.
StepPlan warm_up_plan(const ReplicaSpec& spec, int kv_groups);

}  // namespace skein
