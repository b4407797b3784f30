#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "worker/batcher.h"

// The insides of the batcher, shared by the files that implement it and by nobody else.

namespace skein {

struct BatchedRequest {
  GenerationRequest request;  // its tokens have moved to the sequences
  uint64_t arrival = 0;
  int open_choices = 0;       // not finished
};

enum class Phase : uint8_t {
  kWaiting,    // in the queue, holds nothing
  kRunning,    // has a slot and blocks, and takes part in plans
  kPreempted,  // gives both back when no step in flight uses them; then waits again
  kFinished,   // likewise; then is gone
};

// One choice of one request.
struct Sequence {
  std::shared_ptr<BatchedRequest> owner;
  int choice = 0;
  Phase phase = Phase::kWaiting;
  std::vector<int32_t> tokens;  // known: prompt, then generated
  int end = 0;                  // tokens at which it is complete
  int forks = 0;                // choices that will fork from this one, (choice, choice + forks]

  std::vector<TokenLogprob> prompt_logprobs;  // scored, not yet sent
  int scored = 0;               // positions [0, scored) have been planned to be scored
  int score_end = 0;            // 0: the prompt is not scored
  int cached_tokens = 0;
  bool started = false;         // it has been admitted before

  // While it holds a slot:
  int slot = -1;
  int lane = -1;
  KvSequence kv{};
  std::vector<int> assigned;    // (groups) blocks that the ranks know
  int scheduled = 0;            // positions [0, scheduled) are computed by plans made so far
  int unknown = 0;              // tokens sampled by plans whose results are not there yet
  int in_flight = 0;            // mentions in plans whose results are not there yet

  const SamplingParams& sampling() const { return owner->request.sampling; }
  int prompt_tokens() const { return owner->request.prompt_tokens; }
  int length() const { return static_cast<int>(tokens.size()) + unknown; }
  int generated() const { return static_cast<int>(tokens.size()) - prompt_tokens(); }
  // Of two sequences, the younger is preempted first.
  std::pair<uint64_t, int> age() const { return {owner->arrival, choice}; }
};

// What a step in flight does to one slot.
struct PlannedRow {
  int slot = 0;
  int end = 0;      // positions [0, end) are computed afterwards
  int scores = 0;   // log-probabilities of the prompt that it reports
  bool samples = false;
};

struct PlannedStep {
  uint64_t step = 0;
  int lane = 0;
  size_t samples = 0;
  std::vector<PlannedRow> rows;
};

struct Lane {
  std::vector<Sequence*> running;  // in the order of admission
  size_t first = 0;                // where the next plan begins, when one cannot take all
  int in_flight = 0;
};

struct Batcher::State {
  State(const BatcherConfig& config, std::unique_ptr<KvCache> cache);

  // batcher_plan.cpp: one step of one lane. Room is how many tokens the step may still take.
  bool plan_lane(int lane, StepPlan* plan, PlannedStep* step);
  void plan_single_tokens(int lane, int& room, StepPlan& plan, PlannedStep& step);
  void plan_chunk(Sequence& sequence, int most, int& room, StepPlan& plan, PlannedStep& step);
  void add_row(Sequence& sequence, int tokens, int& room, StepPlan& plan, PlannedStep& step);
  bool make_room(Sequence& sequence, int tokens);
  bool admit(int lane, int step_tokens, StepPlan& plan);
  void fork(Sequence& parent, StepPlan& plan, PlannedStep& step);
  void place(std::unique_ptr<Sequence> sequence, int lane, StepPlan& plan);
  void assign_new_blocks(Sequence& sequence, StepPlan& plan);
  int emptiest_lane() const;

  // batcher_lifecycle.cpp: the ways out of a slot, and into the queue.
  void enqueue(std::unique_ptr<Sequence> sequence);  // where its age belongs
  void preempt(Sequence& sequence);
  // Ends a choice with a frame whose tokens and index are set by the caller.
  void finish(Sequence& sequence, TokenFrame frame);
  void finish_request(BatchedRequest& request);  // one more choice is complete
  void leave_lane(Sequence& sequence);
  void retire(int slot);  // Requires: nothing in flight uses it
  TokenFrame frame_of(const Sequence& sequence) const;

  // batcher_complete.cpp
  Status accept_row(const PlannedRow& row, std::span<const SampledToken> samples);
  Status accept_token(Sequence& sequence, const SampledToken& sample);

  const BatcherConfig config;
  const std::unique_ptr<KvCache> cache;

  std::map<std::pair<uint64_t, uint32_t>, std::shared_ptr<BatchedRequest>> requests;  // (id, epoch)
  std::deque<std::unique_ptr<Sequence>> waiting;  // oldest first
  std::vector<std::unique_ptr<Sequence>> slots;
  std::vector<int> free_slots;
  int reserved_slots = 0;  // of the free ones, kept for forks of running sequences
  int preempting = 0;      // sequences in Phase::kPreempted
  int draining = 0;        // sequences in Phase::kPreempted or kFinished that still hold a slot
  bool admission_stalled = false;  // the oldest waiting sequence did not fit, and nothing was freed

  std::vector<Lane> lanes;
  int next_lane = 0;
  std::deque<PlannedStep> in_flight;
  uint64_t next_step = 1;
  uint64_t next_arrival = 0;
  std::vector<TokenFrame> frames;
  BatcherStats counters;  // the ones that only rise
};

}  // namespace skein
