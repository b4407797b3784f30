#pragma once

#include <memory>
#include <optional>

#include "base/replica_spec.h"
#include "base/status.h"
#include "comm/communicator.h"
#include "kernels/ops.h"
#include "model/checkpoint.h"
#include "model/shard.h"
#include "worker/step_plan.h"

namespace skein {

// One rank's device, weights, pages and state; turns step plans into launches. Single-owner: the executor thread, the
// only one that launches compute.
class Executor {
 public:
  // Takes all memory that it will ever take. `communicator` must outlive it.
  static Result<std::unique_ptr<Executor>> create(const ReplicaSpec& spec, const Checkpoint& checkpoint,
                                                  const ShardPlan& shard, const Ops& ops, Communicator& communicator);
  ~Executor();

  // Runs this rank's part. The last stage's first rank gets the step's samples, others nothing. An
  // error ends the replica.
  // Requires: plans come in order, the same on every rank.
  Result<std::optional<StepResult>> run(const StepPlan& plan);

  int64_t device_bytes() const;

 private:
  struct State;
  explicit Executor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A step that touches every weight: what a rank must survive before it is ready.
StepPlan warm_up_plan(int kv_groups);

}  // namespace skein
