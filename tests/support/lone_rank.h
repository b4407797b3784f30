#pragma once

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/replica_spec.h"
#include "comm/collectives.h"
#include "comm/communicator.h"
#include "model/checkpoint.h"
#include "model/shard.h"
#include "worker/executor.h"

namespace skein::testing {

// CHECKs that it is there.
template <typename T>
T value_of(Result<T> result) {
  if (!result.ok()) std::fprintf(stderr, "%s\n", result.status().message().c_str());
  CHECK(result.ok());
  return std::move(*result);
}

// One rank without a leader, warmed up as every rank is before it is ready.
class LoneRank {
 public:
  // CHECKs that everything starts. All three must outlive it.
  LoneRank(const ReplicaSpec& spec, const Checkpoint& checkpoint, const Ops& ops);
  Executor& executor() { return *executor_; }

 private:
  std::vector<ShardPlan> shards_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Collectives> collectives_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace skein::testing
