#include "comm/socket_communicator.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace skein {
namespace {

constexpr int64_t kReduceFloats = 64 << 10;  // exchanged at once

enum class Stream : uint8_t { kPlan, kResult, kToken, kStage, kGroup };

struct PlannedLink {
  Stream stream;
  RankLink ends;
};

// Every connection of the replica, in the same order on every rank. `shared_groups`: sums go through memory.
std::vector<PlannedLink> plan_links(const CommunicatorConfig& config, bool shared_groups) {
  const int tp = config.tp_size;
  const int answers = (config.pp_size - 1) * tp;
  std::vector<PlannedLink> links;
  const auto add = [&](Stream stream, int from, int to) {
    if (from != to) links.push_back({stream, {.from = from, .to = to}});
  };
  for (int rank = 1; rank < config.world_size(); ++rank) add(Stream::kPlan, 0, rank);
  add(Stream::kResult, answers, 0);
  for (int rank = 0; rank < tp; ++rank) add(Stream::kToken, answers, rank);
  for (int rank = tp; rank < config.world_size(); ++rank) add(Stream::kStage, rank - tp, rank);
  for (int first = 0; !shared_groups && first < config.world_size(); first += tp) {
    for (int one = first; one < first + tp; ++one) {
      for (int other = one + 1; other < first + tp; ++other) add(Stream::kGroup, one, other);
    }
  }
  return links;
}

class SocketCommunicator : public Communicator {
 public:
  SocketCommunicator(const CommunicatorConfig& config, NodesConfig nodes)
      : Communicator(config), nodes_(std::move(nodes)), to_group_(static_cast<size_t>(config.tp_size)) {}

  Status connect() {
    bool shared = true;
    for (int rank = 0; rank < config_.world_size(); ++rank) shared &= host(rank) == host(first_of_group(rank));
    const std::vector<PlannedLink> links = plan_links(config_, shared);
    MeshOptions options{.rank = config_.world_rank(),
                        .links = {},
                        .network = nodes_.network,
                        .ports = nodes_.ports,
                        .name_of = [&](int rank) { return nodes_.names[static_cast<size_t>(rank)]; },
                        .all_gather = nodes_.all_gather};
    for (const PlannedLink& link : links) options.links.push_back(link.ends);
    ASSIGN_OR_RETURN(std::vector<std::unique_ptr<RankSocket>> sockets, connect_mesh(options, nodes_.lost));
    for (size_t i = 0; i < links.size(); ++i) {
      if (sockets[i] != nullptr) take(links[i], std::move(sockets[i]));
    }
    if (config_.world_rank() == 0) connect_leader_to_itself();
    if (shared && config_.tp_size > 1) return share_group();
    return {};
  }

  void send_plan(std::string_view plan) override {
    for (const auto& rank : plan_writers_) rank->write_message(plan);
  }
  std::string receive_plan() override { return plans_->read_message(); }
  bool plan_waits() const override { return plans_->readable(); }
  void send_result(std::string_view result) override { result_writer_->write_message(result); }
  std::string receive_result() override { return results_->read_message(); }
  void send_tokens(std::string_view tokens) override {
    for (const auto& rank : token_writers_) rank->write_message(tokens);
  }
  std::string receive_tokens() override {
    CHECK(receives_tokens());
    return tokens_->read_message();
  }
  void send_stage(const void* data, size_t bytes) override { to_next_->write(data, bytes); }
  void receive_stage(void* data, size_t bytes) override { from_previous_->read(data, bytes); }

  void all_reduce(float* data, int64_t count) override {
    if (config_.tp_size == 1) return;
    if (shared_group_ != nullptr) return shared_group_->all_reduce(data, count);
    for (int64_t done = 0; done < count; done += kReduceFloats) {
      reduce_chunk(data + done, std::min(kReduceFloats, count - done));
    }
  }

  void gather_columns(const float* part, int64_t rows, const int64_t* begins, float* out) override {
    if (shared_group_ != nullptr) return shared_group_->gather_columns(part, rows, begins, out);
    const int64_t own = begins[config_.tp_rank + 1] - begins[config_.tp_rank];
    if (config_.tp_rank != 0) return to_group_[0]->write(part, sizeof(float) * static_cast<size_t>(rows * own));
    const int64_t columns = begins[config_.tp_size];
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(out + row * columns, part + row * own, sizeof(float) * static_cast<size_t>(own));
    }
    for (int rank = 1; rank < config_.tp_size; ++rank) {
      const size_t bytes = sizeof(float) * static_cast<size_t>(begins[rank + 1] - begins[rank]);
      for (int64_t row = 0; row < rows; ++row) {
        to_group_[static_cast<size_t>(rank)]->read(out + row * columns + begins[rank], bytes);
      }
    }
  }

 private:
  const std::string& host(int rank) const { return nodes_.hosts[static_cast<size_t>(rank)]; }
  int first_of_group(int rank) const { return rank / config_.tp_size * config_.tp_size; }

  void take(const PlannedLink& link, std::unique_ptr<RankSocket> socket) {
    const bool writes = link.ends.from == config_.world_rank();
    switch (link.stream) {
      case Stream::kPlan: (writes ? plan_writers_.emplace_back() : plans_) = std::move(socket); break;
      case Stream::kResult: (writes ? result_writer_ : results_) = std::move(socket); break;
      case Stream::kToken: (writes ? token_writers_.emplace_back() : tokens_) = std::move(socket); break;
      case Stream::kStage: (writes ? to_next_ : from_previous_) = std::move(socket); break;
      case Stream::kGroup: {
        const int peer = writes ? link.ends.to : link.ends.from;
        to_group_[static_cast<size_t>(peer % config_.tp_size)] = std::move(socket);
        break;
      }
    }
  }

  void connect_leader_to_itself() {
    SocketPair plans = make_socket_pair(nodes_.lost);
    plan_writers_.push_back(std::move(plans.writer));
    plans_ = std::move(plans.reader);
    if (config_.pp_size > 1) return;
    SocketPair results = make_socket_pair(nodes_.lost);
    result_writer_ = std::move(results.writer);
    results_ = std::move(results.reader);
  }

  Status share_group() {
    const CommunicatorConfig group{
        .tp_size = config_.tp_size, .pp_size = 1, .tp_rank = config_.tp_rank, .pp_rank = 0, .spin = config_.spin};
    const size_t first = static_cast<size_t>(first_of_group(config_.world_rank()));
    ASSIGN_OR_RETURN(shared_group_,
                     Communicator::create(group, {.broadcast = [&](const std::string& bytes) {
                                                    return nodes_.all_gather(bytes)[first];
                                                  },
                                                  .barrier = nodes_.barrier}));
    return {};
  }

  // Added in rank order, as in shared memory.
  void reduce_chunk(float* data, int64_t count) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(count);
    std::vector<RankSocket*> peers;
    std::vector<std::byte*> into;
    parts_.resize(static_cast<size_t>(config_.tp_size * count));
    for (int rank = 0; rank < config_.tp_size; ++rank) {
      float* part = parts_.data() + rank * count;
      if (rank == config_.tp_rank) {
        std::memcpy(part, data, bytes);
      } else {
        peers.push_back(to_group_[static_cast<size_t>(rank)].get());
        into.push_back(reinterpret_cast<std::byte*>(part));
      }
    }
    RankSocket::exchange(peers, {reinterpret_cast<const std::byte*>(data), bytes}, into);
    std::memcpy(data, parts_.data(), bytes);
    for (int rank = 1; rank < config_.tp_size; ++rank) {
      const float* part = parts_.data() + rank * count;
      for (int64_t i = 0; i < count; ++i) data[i] += part[i];
    }
  }

  const NodesConfig nodes_;
  std::vector<std::unique_ptr<RankSocket>> plan_writers_, token_writers_;
  std::unique_ptr<RankSocket> plans_, result_writer_, results_, tokens_, to_next_, from_previous_;
  std::vector<std::unique_ptr<RankSocket>> to_group_;  // by tensor-parallel rank; null for this one
  std::unique_ptr<Communicator> shared_group_;         // null: over sockets
  std::vector<float> parts_;                           // (tp_size, kReduceFloats at most)
};

}  // namespace

Result<std::unique_ptr<Communicator>> connect_nodes(const CommunicatorConfig& config, NodesConfig nodes) {
  CHECK_EQ(static_cast<int>(nodes.hosts.size()), config.world_size());
  auto communicator = std::make_unique<SocketCommunicator>(config, std::move(nodes));
  RETURN_IF_ERROR(communicator->connect());
  return std::unique_ptr<Communicator>(std::move(communicator));
}

}  // namespace skein
