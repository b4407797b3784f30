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

// How the ranks of one replica on one node talk while they serve: everything lies in one shared memory segment.
//
//   plans     leader -> every rank                       (batcher thread -> executors)
//   results   last stage, tensor-parallel rank 0 -> leader   (executor -> results thread)
//   tokens    last stage, tensor-parallel rank 0 -> other ranks of stage 0: within a step where there is one stage
//   stages    rank (s, t) -> rank (s + 1, t): activations
//   sums      all-reduce within a stage, added in rank order
//   columns   last stage: slices of the logits to tensor-parallel rank 0
//
// Each end of a stream belongs to one thread, named above; the rest belongs to the executor thread.
class Communicator {
 public:
  // Collective over the replica: every rank calls it. `broadcast` hands rank 0's bytes to everyone, `barrier` waits for
  // everyone.
  struct Rendezvous {
    std::function<std::string(std::string)> broadcast;
    std::function<void()> barrier;
  };
  static Result<std::unique_ptr<Communicator>> create(const CommunicatorConfig& config, const Rendezvous& rendezvous);
  ~Communicator();

  void send_plan(std::string_view plan);  // leader
  std::string receive_plan();             // every rank
  bool plan_waits() const;                // receive_plan() would return at once
  void send_result(std::string_view result);
  std::string receive_result();
  bool receives_tokens() const;  // whether this rank is one of the other ranks of stage 0
  void send_tokens(std::string_view tokens);
  std::string receive_tokens();

  void send_stage(const void* data, size_t bytes);     // Requires: not the last stage
  void receive_stage(void* data, size_t bytes);        // Requires: not the first stage

  // data (count) becomes the sum over the tensor-parallel group, bitwise the same on every rank.
  void all_reduce(float* data, int64_t count);
  // Rank r of the group holds columns [begin_r, end_r) of a (rows, columns) matrix; rank 0 gets all of it.
  // `part` (rows, size) of this rank; `out` (rows, columns) on rank 0; `begins` has tp_size + 1 entries.
  void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out);

 private:
  struct State;
  explicit Communicator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
