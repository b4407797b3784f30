#pragma once

#include <memory>
#include <string>

#include "base/replica_spec.h"
#include "base/status.h"
#include "comm/communicator.h"
#include "comm/messages.h"
#include "model/description.h"
#include "worker/batcher.h"

namespace skein {

// The batcher of a replica whose ranks have `kv_blocks` each. Its prefix cache serves replicas with equal `numerics`.
Result<std::unique_ptr<Batcher>> make_batcher(const ReplicaSpec& spec, int kv_blocks, const ModelDescription& model,
                                              uint64_t numerics);

// What rank 0 does beside executing: three threads that join the coordinator to the ranks.
//   control  owns the socket: requests in, frames and status out, the lease
//   batcher  owns the Batcher: plans to the ranks, results from the results thread
//   results  blocks on the last stage's answers
// Lives from registration until a Stop frame; thread-safe only in what it says.
class Leader {
 public:
  // Takes the socket over. `communicator` must outlive this object.
  Leader(const ReplicaSpec& spec, std::unique_ptr<MessageSocket> socket, std::unique_ptr<Batcher> batcher,
         Communicator& communicator);
  ~Leader();

  // Registers and starts the threads. After a Stop frame every rank gets a stop plan; the executor
  // loop of this rank then returns, and join() ends the threads.
  void start(const RegisterReplica& registration);
  void join();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skein
