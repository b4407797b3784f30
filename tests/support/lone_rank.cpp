#include "tests/support/lone_rank.h"

namespace skein::testing {

LoneRank::LoneRank(const ReplicaSpec& spec, const Checkpoint& checkpoint, const Ops& ops)
    : shards_(value_of(plan_shards(checkpoint.description(), 1, 1))),
      communicator_(value_of(Communicator::create(
          {}, {.broadcast = [](std::string bytes) { return bytes; }, .barrier = [] {}}))),
      device_(value_of(ops.open({.threads = spec.threads}))),
      collectives_(std::make_unique<SharedMemoryCollectives>(CommunicatorConfig{}, *communicator_)) {
  const RankLinks links{.communicator = *communicator_, .collectives = *collectives_,
                        .minimum = [](int64_t value) { return value; }};
  executor_ = value_of(Executor::create(spec, checkpoint, shards_[0], ops, *device_, links));
  CHECK(executor_->run(warm_up_plan(spec, static_cast<int>(checkpoint.description().kv_groups.size()))).ok());
}

}  // namespace skein::testing
