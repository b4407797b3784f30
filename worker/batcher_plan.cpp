#include <algorithm>

#include "base/check.h"
#include "worker/batcher_state.h"

// How a step is made. Everything here changes state at once, as if the step had run: the ranks run
// steps in the order of their plans, so the next plan may build on what this one leaves behind.

namespace skein {
namespace {

// Positions that may be computed with what is known or will be on the device by then. The last
// token of a complete sequence is never computed: nothing is sampled after it.
int goal(const Sequence& sequence) {
  if (sequence.forks > 0) return sequence.prompt_tokens() - 1;
  return std::min(sequence.length(), sequence.end - 1);
}

bool at_fork(const Sequence& sequence) {
  return sequence.forks > 0 && sequence.scheduled == sequence.prompt_tokens() - 1;
}

bool needs_one(const Sequence& sequence) {
  return goal(sequence) - sequence.scheduled == 1 || at_fork(sequence);
}

SlotSampling slot_sampling(const Sequence& sequence) {
  const SamplingParams& from = sequence.sampling();
  SlotSampling to;
  to.temperature = from.temperature;
  to.top_p = from.top_p;
  to.min_p = from.min_p;
  to.top_k = from.top_k;
  to.presence_penalty = from.presence_penalty;
  to.frequency_penalty = from.frequency_penalty;
  to.repetition_penalty = from.repetition_penalty;
  to.prompt_tokens = sequence.prompt_tokens();
  to.min_tokens = from.min_tokens;
  to.top_logprobs = std::max({from.top_logprobs, from.prompt_logprobs, -1});
  to.seed = from.seed + static_cast<uint64_t>(sequence.choice);
  to.bias_count = static_cast<int32_t>(from.logit_bias.size());
  for (size_t i = 0; i < from.logit_bias.size(); ++i) {
    to.bias_tokens[i] = from.logit_bias[i].first;
    to.bias_values[i] = from.logit_bias[i].second;
  }
  to.stop_count = static_cast<int32_t>(from.stop_tokens.size());
  std::ranges::copy(from.stop_tokens, to.stop_tokens);
  return to;
}

}  // namespace

std::optional<StepPlan> Batcher::plan() {
  State& s = *state_;
  const int lanes = s.config.lanes;
  // The lane with the fewest steps in flight goes first, in turns.
  for (int depth = 0; depth < s.config.lane_steps_max; ++depth) {
    for (int i = 0; i < lanes; ++i) {
      const int lane = (s.next_lane + i) % lanes;
      if (s.lanes[static_cast<size_t>(lane)].in_flight != depth) continue;
      StepPlan plan;
      PlannedStep step;
      if (!s.plan_lane(lane, &plan, &step)) continue;
      plan.step = step.step = s.next_step++;
      plan.lane = step.lane = lane;
      step.samples = plan.samples.size();
      ++s.lanes[static_cast<size_t>(lane)].in_flight;
      s.in_flight.push_back(std::move(step));
      s.next_lane = (lane + 1) % lanes;
      return plan;
    }
  }
  return std::nullopt;
}

bool Batcher::State::plan_lane(int index, StepPlan* plan, PlannedStep* step) {
  Lane& lane = lanes[static_cast<size_t>(index)];
  const size_t rows = lane.running.size() + 4;
  plan->sample_queries.reserve(rows);
  plan->rows.reserve(rows);
  plan->samples.reserve(rows);
  step->rows.reserve(rows);

  int room = config.step_tokens_max;
  plan_single_tokens(index, room, *plan, *step);
  const int singles = config.step_tokens_max - room;
  for (size_t i = 0; i < lane.running.size() && room > 0; ++i) {
    plan_chunk(*lane.running[i], room, room, *plan, *step);
  }
  while (room > 0) {
    const bool leads = lane.running.size() > lanes[static_cast<size_t>(emptiest_lane())].running.size();
    const int tokens = config.step_tokens_max - room;
    // One of several lanes that has prompts enough leaves the others to the next lane.
    const bool fills = leads || (lanes.size() > 1 && config.step_tokens_enough > 0 && tokens > singles);
    if ((fills && tokens >= config.step_tokens_enough) || !admit(index, tokens, *plan)) break;
    Sequence& admitted = *lane.running.back();
    if (at_fork(admitted)) fork(admitted, *plan, *step);
    if (needs_one(admitted)) {
      add_row(admitted, 1, room, *plan, *step);
    } else {
      plan_chunk(admitted, fills ? std::min(room, config.step_tokens_enough - tokens) : room, room, *plan, *step);
    }
  }
  CHECK(!plan->rows.empty() || (plan->admissions.empty() && plan->assignments.empty()));
  return !plan->rows.empty();
}

void Batcher::State::plan_single_tokens(int index, int& room, StepPlan& plan, PlannedStep& step) {
  Lane& lane = lanes[static_cast<size_t>(index)];
  const size_t count = lane.running.size();
  const size_t first = lane.first < count ? lane.first : 0;
  lane.first = 0;
  // Preemption may take sequences out of the lane meanwhile: go by a copy, and look at the phase.
  const std::vector<Sequence*> candidates(lane.running);
  for (size_t i = 0; i < count; ++i) {
    const size_t at = (first + i) % count;
    Sequence& sequence = *candidates[at];
    if (sequence.phase != Phase::kRunning || !needs_one(sequence)) continue;
    if (room == 0) {
      lane.first = at;
      return;
    }
    if (!make_room(sequence, sequence.scheduled + 1)) continue;
    if (at_fork(sequence)) fork(sequence, plan, step);
    add_row(sequence, 1, room, plan, step);
  }
}

void Batcher::State::plan_chunk(Sequence& sequence, int most, int& room, StepPlan& plan, PlannedStep& step) {
  const int missing = goal(sequence) - sequence.scheduled;
  if (missing <= 1) return;  // nothing to do, or a single token that has had its turn
  add_row(sequence, std::min(missing, most), room, plan, step);
}

void Batcher::State::add_row(Sequence& sequence, int tokens, int& room, StepPlan& plan,
                             PlannedStep& step) {
  const int first = sequence.scheduled;
  const int end = first + tokens;
  CHECK(cache->writable(sequence.kv, first, tokens));
  assign_new_blocks(sequence, plan);
  PlannedRow row{.slot = sequence.slot, .end = end};
  const int query = config.step_tokens_max - room - first;  // of position 0, if it were here
  while (sequence.scored < std::min(end, sequence.score_end)) {
    plan.sample_queries.push_back(query + sequence.scored);
    plan.samples.push_back({.slot = sequence.slot, .position = sequence.scored, .score = 1});
    ++sequence.scored;
    ++row.scores;
  }
  if (end == sequence.length() && end < sequence.end) {
    plan.sample_queries.push_back(query + end - 1);
    plan.samples.push_back({.slot = sequence.slot, .position = end - 1, .score = 0});
    row.samples = true;
    ++sequence.unknown;
  }
  plan.rows.push_back({.slot = sequence.slot, .first_position = first, .tokens = tokens});
  sequence.scheduled = end;
  ++sequence.in_flight;
  step.rows.push_back(row);
  room -= tokens;
}

// Blocks for the first `tokens` tokens of a running sequence, taken from the youngest if there are
// no others. False if the sequence must wait for steps in flight, or was itself the youngest.
bool Batcher::State::make_room(Sequence& sequence, int tokens) {
  if (tokens <= cache->capacity(sequence.kv)) return true;
  while (!cache->grow(sequence.kv, tokens)) {
    if (draining > 0) return false;
    Sequence* youngest = nullptr;
    for (const auto& slot : slots) {
      if (slot && (youngest == nullptr || slot->age() > youngest->age())) youngest = slot.get();
    }
    // Alone it fits: submit saw to it.
    CHECK(youngest != nullptr && (youngest != &sequence || free_slots.size() + 1 < slots.size()));
    const bool itself = youngest == &sequence;
    preempt(*youngest);
    if (itself) return false;
  }
  return true;
}

// Gives the oldest waiting sequence a slot in the lane, and blocks for all that it knows. False if
// there is none, or if it has to wait. A lane may run ahead of the emptiest one while its step, of
// `step_tokens` so far, is too small to be worth a turn of the pipeline, and while the other can
// catch up with what waits.
bool Batcher::State::admit(int lane, int step_tokens, StepPlan& plan) {
  if (waiting.empty() || admission_stalled || preempting > 0) return false;
  const auto load = [&](int at) { return lanes[static_cast<size_t>(at)].running.size(); };
  const size_t lead = load(lane) - load(emptiest_lane());
  const bool may_lead = step_tokens < config.step_tokens_enough && waiting.size() > lead && free_slots.size() > lead;
  if (lead > 0 && !may_lead) return false;
  Sequence& sequence = *waiting.front();
  const auto wanted = static_cast<size_t>(1 + sequence.forks + reserved_slots);
  if (free_slots.size() < wanted) {
    admission_stalled = true;
    return false;
  }
  sequence.kv = cache->open(sequence.owner->request.cache_salt);
  const bool may_reuse = sequence.scored >= sequence.score_end;  // scores need logits
  const int cached = may_reuse ? cache->attach_prefix(sequence.kv, sequence.tokens) : 0;
  const int known = std::min(static_cast<int>(sequence.tokens.size()), sequence.end - 1);
  // Those that run will soon grow: a newcomer that takes their last blocks would be preempted.
  const auto running = static_cast<int>(slots.size() - free_slots.size());
  const int available = cache->blocks_available();
  if (!cache->grow(sequence.kv, known) || cache->blocks_available() < running / 4) {
    cache->release(sequence.kv);
    admission_stalled = true;
    return false;
  }
  const int64_t taken = available - cache->blocks_available();
  if (static_cast<int64_t>(lead) * taken > cache->blocks_available()) {
    cache->release(sequence.kv);
    return false;
  }
  if (!sequence.started) {
    sequence.started = true;
    sequence.cached_tokens = std::min(cached, sequence.prompt_tokens());
    counters.prompt_tokens += sequence.prompt_tokens();
    if (may_reuse) counters.prefix_queries += sequence.prompt_tokens();
    counters.prefix_hits += sequence.cached_tokens;
  }
  sequence.scheduled = cached;
  reserved_slots += sequence.forks;
  std::unique_ptr<Sequence> owned = std::move(waiting.front());
  waiting.pop_front();
  place(std::move(owned), lane, plan);
  return true;
}

// The other choices share what is computed of the prompt, all but its last token: that one each
// computes itself, to sample after it.
void Batcher::State::fork(Sequence& parent, StepPlan& plan, PlannedStep& step) {
  CHECK(at_fork(parent));
  std::vector<KvBlockCopy> copies;
  const int forks = std::exchange(parent.forks, 0);
  reserved_slots -= forks;
  for (int i = 1; i <= forks; ++i) {
    auto child = std::make_unique<Sequence>();
    child->owner = parent.owner;
    child->choice = parent.choice + i;
    child->tokens = parent.tokens;
    child->end = parent.end;
    child->cached_tokens = parent.cached_tokens;
    child->started = true;
    const auto kv = cache->fork(parent.kv, parent.scheduled, parent.scheduled + 1, &copies);
    if (!kv) {
      enqueue(std::move(child));  // computes the prompt again
      continue;
    }
    child->kv = *kv;
    child->scheduled = parent.scheduled;
    child->in_flight = 1;
    Sequence& placed = *child;
    place(std::move(child), emptiest_lane(), plan);
    step.rows.push_back({.slot = placed.slot, .end = placed.scheduled});
  }
  for (const KvBlockCopy& copy : copies) {
    plan.copies.push_back({copy.group, value_of(copy.source), value_of(copy.destination)});
  }
}

void Batcher::State::place(std::unique_ptr<Sequence> owned, int lane, StepPlan& plan) {
  Sequence& sequence = *owned;
  CHECK(!free_slots.empty());
  sequence.phase = Phase::kRunning;
  sequence.slot = free_slots.back();
  free_slots.pop_back();
  sequence.lane = lane;
  lanes[static_cast<size_t>(lane)].running.push_back(&sequence);
  CHECK(slots[static_cast<size_t>(sequence.slot)] == nullptr);
  slots[static_cast<size_t>(sequence.slot)] = std::move(owned);
  plan.admissions.push_back(
      {.slot = sequence.slot, .tokens = sequence.tokens, .sampling = slot_sampling(sequence)});
  sequence.assigned.assign(static_cast<size_t>(cache->groups()), 0);
  assign_new_blocks(sequence, plan);
}

void Batcher::State::assign_new_blocks(Sequence& sequence, StepPlan& plan) {
  for (int group = 0; group < cache->groups(); ++group) {
    int& assigned = sequence.assigned[static_cast<size_t>(group)];
    const auto blocks = cache->blocks(sequence.kv, group);
    if (static_cast<size_t>(assigned) == blocks.size()) continue;
    BlockAssignment assignment{
        .group = group, .slot = sequence.slot, .first = assigned, .blocks = {}};
    assignment.blocks.reserve(blocks.size() - static_cast<size_t>(assigned));
    for (const BlockId block : blocks.subspan(static_cast<size_t>(assigned))) {
      assignment.blocks.push_back(value_of(block));
    }
    assigned = static_cast<int>(blocks.size());
    plan.assignments.push_back(std::move(assignment));
  }
}

int Batcher::State::emptiest_lane() const {
  const auto fewest = std::ranges::min_element(
      lanes, {}, [](const Lane& lane) { return lane.running.size(); });
  return static_cast<int>(fewest - lanes.begin());
}

}  // namespace skein
