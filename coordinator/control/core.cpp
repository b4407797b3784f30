#include "coordinator/control/core.h"

#include <algorithm>

#include "base/check.h"

namespace skein {

Core::Core(CoreConfig config)
    : config_(std::move(config)),
      next_request_(config_.first_request),
      next_launch_(config_.first_launch),
      instance_(config_.instance),
      nodes_(config_.described) {
  for (const ReplicaSpec& spec : config_.replicas) {
    Replica replica;
    replica.spec = spec;
    replica.spec.replica = static_cast<uint32_t>(replicas_.size());
    replica.backoff_ms = config_.backoff_min_ms;
    replicas_.push_back(std::move(replica));
  }
}

int Core::ready() const {
  return static_cast<int>(
      std::ranges::count_if(replicas_, [](const Replica& r) { return r.state == ReplicaState::kReady && !r.cut_off; }));
}

bool Core::all_were_ready() const {
  return std::ranges::all_of(replicas_, [](const Replica& r) { return r.was_ready; });
}

bool Core::all_down() const {
  return std::ranges::all_of(replicas_, [](const Replica& r) { return r.state == ReplicaState::kDown; });
}

Core::Replica* Core::find_launch(uint64_t launch) {
  for (Replica& replica : replicas_) {
    if (replica.launch == launch && replica.state != ReplicaState::kDown) return &replica;
  }
  return nullptr;
}

int Core::fail_requests(Replica& replica, const std::string& reason, Actions* actions) {
  int failed = 0;
  for (auto it = requests_.begin(); it != requests_.end();) {
    if (it->second.replica != replica.spec.replica) {
      ++it;
      continue;
    }
    for (size_t choice = 0; choice < it->second.next_index.size(); ++choice) {
      TokenFrame frame;
      frame.request = it->first;
      frame.epoch = it->second.epoch;
      frame.choice = static_cast<int32_t>(choice);
      frame.first_index = it->second.next_index[choice];
      frame.finish = FinishReason::kError;
      frame.error = "the replica that served this request was lost (" + reason + "); send the request again";
      if (frame.first_index >= 0) actions->push_back(DeliverFrame{std::move(frame)});
    }
    it = requests_.erase(it);
    ++failed;
  }
  replica.charge = 0;
  replica.requests = 0;
  return failed;
}

void Core::replica_frame(uint64_t launch, Frame frame, int64_t now_ms, Actions* actions) {
  Replica* replica = find_launch(launch);
  if (replica == nullptr) return;  // an older launch
  replica->lease.heard(now_ms);
  replica->cut_off = false;
  if (auto* registration = std::get_if<RegisterReplica>(&frame)) {
    if (replica->state != ReplicaState::kLaunching) return;
    replica->state = ReplicaState::kReady;
    replica->since_ms = now_ms;
    replica->was_ready = true;
    replica->registration = *registration;
    if (config_.own_agents) send_to_nodes(*replica, LaunchReady{launch}, actions);
    actions->push_back(ReplicaReady{replica->spec.replica, std::move(*registration)});
  } else if (replica->state == ReplicaState::kLaunching) {  // its registration was lost, or it is to be adopted
    actions->push_back(SendToReplica{launch, Introduce{instance_}});
  } else if (const auto* status = std::get_if<ReplicaStatus>(&frame)) {
    replica->status = *status;
  } else if (auto* tokens = std::get_if<TokenFrame>(&frame)) {
    take(std::move(*tokens), *replica, actions);
  }
}

void Core::replica_reconnected(uint64_t launch, Actions* actions) {
  Replica* replica = find_launch(launch);
  if (replica == nullptr || replica->state != ReplicaState::kReady) return;
  actions->push_back(SendToReplica{launch, Introduce{++instance_}});
  fail_requests(*replica, "the connection to it broke", actions);
}

// Accepts only the next index of the current epoch.
void Core::take(TokenFrame frame, Replica& replica, Actions* actions) {
  const auto it = requests_.find(frame.request);
  if (it == requests_.end()) return;  // cancelled meanwhile
  Request& request = it->second;
  if (request.epoch != frame.epoch || request.replica != replica.spec.replica) return;
  if (frame.choice < 0 || static_cast<size_t>(frame.choice) >= request.next_index.size()) return;
  int32_t& next = request.next_index[static_cast<size_t>(frame.choice)];
  if (next < 0 || (frame.first_index != next && !frame.tokens.empty())) return;
  next += static_cast<int32_t>(frame.tokens.size());
  const bool over = frame.finish != FinishReason::kNone;
  if (over) {
    next = -1;
    --request.choices_left;
  }
  actions->push_back(DeliverFrame{std::move(frame)});
  if (request.choices_left == 0) forget(it);
}

void Core::forget(std::unordered_map<uint64_t, Request>::iterator request) {
  Replica& replica = replicas_[request->second.replica];
  replica.charge -= request->second.charge;
  --replica.requests;
  requests_.erase(request);
}

void Core::send_failed(uint64_t launch, const std::string& reason, int64_t now_ms, Actions* actions) {
  Replica* replica = find_launch(launch);
  if (replica == nullptr || replica->state != ReplicaState::kReady) return;
  // Between nodes connections break and come back: its lease is what counts.
  if (config_.own_agents) replica->cut_off = true;
  else end_launch(*replica, reason, now_ms, actions);
  fail_requests(*replica, reason, actions);
}

Result<uint64_t> Core::submit(GenerationRequest request, Actions* actions) {
  if (draining_) return unavailable("the server is shutting down");
  if (requests_.size() >= static_cast<size_t>(config_.waiting_max)) {
    return resource_exhausted("the server holds " + std::to_string(requests_.size()) +
                              " requests, its limit; try again later");
  }
  Replica* best = nullptr;
  for (size_t i = 0; i < replicas_.size(); ++i) {
    Replica& replica = replicas_[(turn_ + i) % replicas_.size()];
    if (replica.state != ReplicaState::kReady || replica.cut_off) continue;
    if (request.choices > replica.spec.slots) continue;
    if (best == nullptr || replica.charge < best->charge) best = &replica;
  }
  if (best == nullptr) {
    const auto runs_fewer = [&](const Replica& replica) { return request.choices > replica.spec.slots; };
    if (std::ranges::all_of(replicas_, runs_fewer)) {
      return invalid_argument("n = " + std::to_string(request.choices) +
                              " is more than any replica runs at once; lower n or raise max-num-seqs");
    }
    return unavailable("no replica is ready; try again later");
  }
  turn_ = best->spec.replica + 1;
  request.id = next_request_++;
  request.epoch = 1;
  Request entry{.replica = best->spec.replica,
                .epoch = request.epoch,
                .charge = static_cast<int64_t>(request.tokens.size()) +
                          int64_t{request.choices} * request.sampling.max_tokens,
                .choices_left = request.choices,
                .next_index = {}};
  const int32_t generated = static_cast<int32_t>(request.tokens.size()) - request.prompt_tokens;
  entry.next_index.assign(static_cast<size_t>(request.choices), generated);
  best->charge += entry.charge;
  ++best->requests;
  const uint64_t id = request.id;
  requests_.emplace(id, std::move(entry));
  actions->push_back(SendToReplica{best->launch, std::move(request)});
  return id;
}

void Core::cancel(uint64_t id, Actions* actions) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  actions->push_back(SendToReplica{replicas_[it->second.replica].launch, CancelRequest{id, it->second.epoch}});
  forget(it);
}

void Core::drain() { draining_ = true; }

void Core::stop(Actions* actions) {
  draining_ = true;
  for (Replica& replica : replicas_) {
    if (replica.state == ReplicaState::kReady) {
      actions->push_back(SendToReplica{replica.launch, Stop{}});
    } else if (replica.state == ReplicaState::kLaunching) {
      send_to_nodes(replica, EndLaunch{replica.launch}, actions);
    }
  }
}

void Core::end_all(int64_t now_ms, Actions* actions) {
  for (Replica& replica : replicas_) {
    if (replica.state != ReplicaState::kDown) end_launch(replica, "the server is stopping", now_ms, actions);
  }
}

}  // namespace skein
