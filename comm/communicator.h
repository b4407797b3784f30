#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace skein {

struct CommunicatorConfig {
  int tp_size = 1;
  int pp_size = 1;
  int tp_rank = 0;
  int pp_rank = 0;
  bool spin = false;  // there is a core for every thread of every rank: spin before sleeping
  int world_size() const { return tp_size * pp_size; }
  int world_rank() const { return pp_rank * tp_size + tp_rank; }
};

// How the ranks of one replica talk while they serve.
//
//   plans     leader -> every rank                       (batcher thread -> executors)
//   results   last stage, tensor-parallel rank 0 -> leader   (executor -> results thread)
//   tokens    last stage, tensor-parallel rank 0 -> other ranks of stage 0: within a step where there is one stage
//   stages    rank (s, t) -> rank (s + 1, t): activations
//   sums      all-reduce within a stage, added in rank order
//   columns   last stage: slices of the logits to tensor-parallel rank 0
//
// Each end of a stream belongs to one thread, named above; the rest belongs to the executor thread. On one node all of
// it lies in a shared memory segment; between nodes it goes over sockets (comm/socket_communicator.h). Sums have the
// same bits either way.
class Communicator {
 public:
  // Collective over the replica: every rank calls it. `broadcast` hands rank 0's bytes to everyone, `barrier` waits for
  // everyone.
  struct Rendezvous {
    std::function<std::string(std::string)> broadcast;
    std::function<void()> barrier;
  };
  // For ranks that share one node's memory.
  static Result<std::unique_ptr<Communicator>> create(const CommunicatorConfig& config, const Rendezvous& rendezvous);
  virtual ~Communicator() = default;

  virtual void send_plan(std::string_view plan) = 0;  // leader
  virtual std::string receive_plan() = 0;             // every rank
  virtual bool plan_waits() const = 0;                // receive_plan() would return at once
  virtual void send_result(std::string_view result) = 0;
  virtual std::string receive_result() = 0;
  bool receives_tokens() const {  // whether this rank is one of the other ranks of stage 0
    return config_.pp_rank == 0 && (config_.pp_size > 1 || config_.tp_rank > 0);
  }
  virtual void send_tokens(std::string_view tokens) = 0;
  virtual std::string receive_tokens() = 0;  // Requires: receives_tokens()

  virtual void send_stage(const void* data, size_t bytes) = 0;  // Requires: not the last stage
  virtual void receive_stage(void* data, size_t bytes) = 0;     // Requires: not the first stage

  // data (count) becomes the sum over the tensor-parallel group, bitwise the same on every rank.
  virtual void all_reduce(float* data, int64_t count) = 0;
  // Rank r of the group holds columns [begin_r, end_r) of a (rows, columns) matrix; rank 0 gets all of it.
  // `part` (rows, size) of this rank; `out` (rows, columns) on rank 0; `begins` has tp_size + 1 entries.
  virtual void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) = 0;

 protected:
  explicit Communicator(const CommunicatorConfig& config) : config_(config) {}
  // The ranks that receive tokens, as tensor-parallel ranks of stage 0: from the first to tp_size.
  int first_token_reader() const { return config_.pp_size == 1 ? 1 : 0; }

  const CommunicatorConfig config_;
};

}  // namespace skein
