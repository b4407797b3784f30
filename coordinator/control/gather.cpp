#include "coordinator/control/gather.h"

#include <poll.h>

#include <algorithm>
#include <chrono>

#include "base/clock.h"
#include "coordinator/control/nodes.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPollMs = 50;
constexpr auto kSignPeriod = std::chrono::milliseconds(250);
constexpr int64_t kSilentMs = 2000;  // then an agent has gone, and another of its name may come
constexpr auto kFirstWord = std::chrono::seconds(1);  // agents that are there come sooner
constexpr auto kWordPeriod = std::chrono::seconds(10);
constexpr size_t kLeadersMax = 4096;

std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

class Gathering {
 public:
  Gathering(std::unique_ptr<MessageSocket> socket, const std::set<std::string>& names)
      : socket_(std::move(socket)), names_(names) {}

  std::vector<std::string> missing() const {
    std::vector<std::string> missing;
    for (const std::string& name : names_) {
      if (table_.find(name) == nullptr) missing.push_back(name);
    }
    return missing;
  }

  void turn() {
    while (const std::optional<MessageSocket::Received> received = socket_->receive()) take(*received);
    const Clock::time_point now = Clock::now();
    if (now >= next_sign_) {
      // A peer that is gone again hears nothing.
      for (const auto& [name, node] : table_.all()) (void)socket_->send(node.peer, Lease{});
      for (const std::string& leader : leaders_) (void)socket_->send(leader, Lease{});
      next_sign_ = now + kSignPeriod;
    }
    table_.forget_silent(milliseconds(now), kSilentMs);
    pollfd fd{.fd = socket_->fd(), .events = POLLIN, .revents = 0};
    poll(&fd, 1, kPollMs);
  }

  Result<GatheredNodes> result(const std::string& otherwise) const {
    GatheredNodes gathered;
    for (const std::string& name : missing()) {
      const std::string reason = table_.refusal(name);
      gathered.notes.push_back(reason.empty() ? "no agent came from " + name + ": nothing is placed there" : reason);
    }
    for (const auto& [name, node] : table_.all()) {
      if (node.report.cluster || !names_.contains(name)) continue;
      gathered.notes.push_back(name + " is left out, as it could not be described" +
                               (node.report.findings.empty() ? "" : ": " + node.report.findings.back()));
    }
    Result<Cluster> cluster = table_.cluster(names_);
    if (!cluster.ok()) {
      const auto refused = [&](const std::string& name) { return !table_.refusal(name).empty(); };
      if (missing().size() == names_.size() && std::ranges::none_of(names_, refused)) {
        return unavailable("no agent came from " + list_of(missing()) + ": start `skein agent` there, or " + otherwise);
      }
      return cluster.status().within(gathered.notes.empty() ? "the agents' nodes" : gathered.notes.front());
    }
    gathered.cluster = std::move(*cluster);
    gathered.cluster.name = "the agents' nodes";
    for (const Node& node : gathered.cluster.nodes) {
      if (!table_.find(node.name)->registration.jobs.empty()) gathered.busy.push_back(node.name);
    }
    return gathered;
  }

 private:
  void take(const MessageSocket::Received& received) {
    if (!received.frame.ok()) return;
    if (!received.name.starts_with(kAgentPrefix)) {
      // Of a replica that serves, and waits for its next coordinator. A key may invent names.
      if (leaders_.size() < kLeadersMax) leaders_.insert(received.peer);
      return;
    }
    const auto* registration = std::get_if<RegisterAgent>(&*received.frame);
    if (registration == nullptr) {
      NodeTable::Node* node = table_.of_peer(received.peer);
      if (node != nullptr) node->lease.heard(now_ms());
      else (void)socket_->send(received.peer, Introduce{});
      return;
    }
    std::optional<std::string> refusal = belies_key(*registration, received.user);
    if (!refusal && table_.may_succeed(*registration, now_ms())) return;
    if (!refusal) refusal = table_.admit(received.peer, *registration, now_ms());
    if (refusal) (void)socket_->send(received.peer, RefuseAgent{*refusal});
  }

  const std::unique_ptr<MessageSocket> socket_;
  const std::set<std::string>& names_;
  NodeTable table_;
  std::set<std::string> leaders_;  // by their names as peers
  Clock::time_point next_sign_;
};

}  // namespace

Result<GatheredNodes> gather_nodes(const ListenConfig& listen, const std::set<std::string>& names, double seconds,
                                   const std::function<void(const std::vector<std::string>&)>& waiting,
                                   const std::string& otherwise) {
  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket, MessageSocket::bind(listen.endpoint, listen.keys));
  Gathering gathering(std::move(socket), names);
  const Clock::time_point begun = Clock::now();
  const auto patience = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  const Clock::time_point end = begun + patience;
  Clock::time_point next_word = begun + kFirstWord;
  for (std::vector<std::string> missing = gathering.missing(); !missing.empty(); missing = gathering.missing()) {
    const Clock::time_point now = Clock::now();
    if (now >= end) break;
    if (now >= next_word) {
      waiting(missing);
      next_word = now + kWordPeriod;
    }
    gathering.turn();
  }
  return gathering.result(otherwise);
}

}  // namespace skein
