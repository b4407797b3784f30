#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/request.h"
#include "base/status.h"
#include "kvcache/kv_cache.h"
#include "worker/step_plan.h"

namespace skein {

struct BatcherConfig {
  int slots = 64;               // sequences that can run at once (max_num_seqs)
  int step_tokens_max = 512;    // token budget of a step (max_num_batched_tokens)
  int step_tokens_enough = 0;   // up to which one of several lanes admits, also ahead of the others; 0: never ahead
  int sequence_tokens_max = 0;  // prompt + generated, per sequence (max_model_len)
  int vocabulary = 0;           // token ids are below
  int lanes = 1;                // pipeline stages
  int lane_steps_max = 2;       // steps in flight per lane; 2 plans the next while one runs
  int waiting_max = 1024;       // requests that may wait for admission
};

struct BatcherStats {
  int running = 0;
  int waiting = 0;
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;     // admitted
  int64_t generated_tokens = 0;
  int64_t prefix_queries = 0;    // prompt tokens looked up
  int64_t prefix_hits = 0;       // of these, found
  double kv_usage = 0;           // share of blocks that running sequences hold
};

// All scheduling and block state of a replica. Single-owner: the leader's batcher thread. Pure:
// no clock, no I/O.
//
// There is no prefill or decode phase: each sequence's computed-token count catches up with its
// token count under a token budget, sequences that need one token first.
class Batcher {
 public:
  // Requires: config's numbers are positive, cache is there.
  Batcher(const BatcherConfig& config, std::unique_ptr<KvCache> cache);
  ~Batcher();

  // kInvalidArgument for what can never run here, kResourceExhausted when the queue is full.
  Status submit(GenerationRequest request);
  // Ends every choice of the request with kCancelled; unknown ids and epochs are ignored.
  void cancel(uint64_t request, uint32_t epoch);
  void cancel_all();

  // The next step, or nothing if no work is ready or enough steps are in flight.
  std::optional<StepPlan> plan();
  // Results come in the order of the plans; one that fits no plan is an error of the replica.
  Status complete(const StepResult& result);
  // Frames made since the last call, in order.
  std::vector<TokenFrame> take_frames();

  bool idle() const;  // nothing waits, runs or is in flight
  int steps_in_flight() const;
  BatcherStats stats() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skein
