#include <algorithm>

#include "base/check.h"
#include "worker/batcher_state.h"

// How sequences come into the queue, and how they leave their slots. A slot and its blocks are
// given to others only when no step in flight mentions them.

namespace skein {

TokenFrame Batcher::State::frame_of(const Sequence& sequence) const {
  TokenFrame frame;
  frame.request = sequence.owner->request.id;
  frame.epoch = sequence.owner->request.epoch;
  frame.choice = sequence.choice;
  frame.first_index = sequence.generated();
  frame.cached_tokens = sequence.cached_tokens;
  return frame;
}

void Batcher::State::enqueue(std::unique_ptr<Sequence> sequence) {
  // Nearly always at one of the ends: new ones are the youngest, preempted ones the oldest.
  auto at = waiting.end();
  if (!waiting.empty() && sequence->age() < waiting.back()->age()) {
    at = waiting.begin();
    while ((*at)->age() < sequence->age()) ++at;
  }
  sequence->phase = Phase::kWaiting;
  waiting.insert(at, std::move(sequence));
}

void Batcher::State::preempt(Sequence& sequence) {
  CHECK(sequence.phase == Phase::kRunning);
  leave_lane(sequence);
  sequence.phase = Phase::kPreempted;
  ++counters.preemptions;
  ++preempting;
  ++draining;
  if (sequence.in_flight == 0) retire(sequence.slot);
}

void Batcher::State::finish(Sequence& sequence, TokenFrame frame) {
  CHECK(sequence.phase != Phase::kFinished);
  frames.push_back(std::move(frame));
  finish_request(*sequence.owner);
  const Phase before = std::exchange(sequence.phase, Phase::kFinished);
  if (before == Phase::kWaiting) return;
  if (before == Phase::kRunning) {
    leave_lane(sequence);
    ++draining;
  } else {
    --preempting;
  }
}

void Batcher::State::finish_request(BatchedRequest& request) {
  if (--request.open_choices > 0) return;
  CHECK_EQ(request.open_choices, 0);
  requests.erase({request.request.id, request.request.epoch});
}

void Batcher::State::leave_lane(Sequence& sequence) {
  Lane& lane = lanes[static_cast<size_t>(sequence.lane)];
  const auto at = std::ranges::find(lane.running, &sequence);
  CHECK(at != lane.running.end());
  lane.running.erase(at);
}

void Batcher::State::retire(int slot) {
  std::unique_ptr<Sequence> sequence = std::move(slots[static_cast<size_t>(slot)]);
  CHECK_EQ(sequence->in_flight, 0);
  CHECK_EQ(sequence->unknown, 0);
  cache->release(sequence->kv);
  free_slots.push_back(slot);
  reserved_slots -= sequence->forks;
  admission_stalled = false;
  --draining;
  if (sequence->phase == Phase::kFinished) return;
  CHECK(sequence->phase == Phase::kPreempted);
  --preempting;
  enqueue(std::move(sequence));
}

}  // namespace skein
