#include "comm/communicator.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <barrier>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "comm/shared_memory.h"
#include "comm/shared_stream.h"
#include "comm/socket_communicator.h"

namespace skein {
namespace {

// One node; a node for each rank; a node for each stage.
enum class Transport { kSharedMemory, kSockets, kSharedStages };

// What threads that stand for processes meet at.
class Meeting {
 public:
  explicit Meeting(int ranks) : meet_(ranks), cards_(static_cast<size_t>(ranks)) {}
  std::vector<std::string> all_gather(int rank, const std::string& bytes) {
    cards_[static_cast<size_t>(rank)] = bytes;
    meet_.arrive_and_wait();
    std::vector<std::string> all = cards_;
    meet_.arrive_and_wait();
    return all;
  }
  void barrier() { meet_.arrive_and_wait(); }

 private:
  std::barrier<> meet_;
  std::vector<std::string> cards_;  // by rank
};

Result<std::unique_ptr<Communicator>> join(Transport transport, const CommunicatorConfig& config, Meeting& meeting,
                                           LostPeer lost) {
  const int rank = config.world_rank();
  if (transport == Transport::kSharedMemory) {
    return Communicator::create(
        config, {.broadcast = [&](const std::string& bytes) { return meeting.all_gather(rank, bytes)[0]; },
                 .barrier = [&] { meeting.barrier(); }});
  }
  NodesConfig nodes{.network = "127.0.0.1",
                    .ports = {},
                    .hosts = {},
                    .names = {},
                    .lost = std::move(lost),
                    .all_gather = [&, rank](const std::string& bytes) { return meeting.all_gather(rank, bytes); },
                    .barrier = [&] { meeting.barrier(); }};
  for (int other = 0; other < config.world_size(); ++other) {
    nodes.hosts.push_back(std::to_string(transport == Transport::kSockets ? other : other / config.tp_size));
    nodes.names.push_back("rank " + std::to_string(other));
  }
  return connect_nodes(config, std::move(nodes));
}

// Runs `body` on every rank of a replica; threads stand for processes, segments and sockets are real.
void with_ranks(Transport transport, int tp_size, int pp_size,
                const std::function<void(Communicator&, int tp, int pp)>& body) {
  const int world = tp_size * pp_size;
  Meeting meeting(world);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world; ++rank) {
    ranks.emplace_back([&, rank] {
      const CommunicatorConfig config{
          .tp_size = tp_size, .pp_size = pp_size, .tp_rank = rank % tp_size, .pp_rank = rank / tp_size};
      const auto communicator = join(transport, config, meeting, [](const std::string& what) {
        ADD_FAILURE() << what;
        std::abort();
      });
      ASSERT_TRUE(communicator.ok()) << communicator.status().message();
      body(**communicator, rank % tp_size, rank / tp_size);
      meeting.barrier();
    });
  }
  for (auto& rank : ranks) rank.join();
}

class CommunicatorOver : public testing::TestWithParam<Transport> {};

std::string transport_name(const testing::TestParamInfo<Transport>& info) {
  constexpr std::array kNames{"SharedMemory", "Sockets", "SharedStages"};
  return kNames[static_cast<size_t>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Transports, CommunicatorOver,
                         testing::Values(Transport::kSharedMemory, Transport::kSockets, Transport::kSharedStages),
                         transport_name);

TEST_P(CommunicatorOver, AllReduceAddsInRankOrderOnEveryRank) {
  for (const int64_t count : {int64_t{1}, int64_t{576}, int64_t{200'001}}) {
    std::vector<std::vector<float>> results(3);
    with_ranks(GetParam(), 3, 1, [&](Communicator& communicator, int tp, int) {
      std::vector<float>& data = results[static_cast<size_t>(tp)];
      for (int round = 0; round < 20; ++round) {
        data.resize(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) {
          data[static_cast<size_t>(i)] = 1.0f / static_cast<float>(1 + tp + i % 97 + round);
        }
        communicator.all_reduce(data.data(), count);
      }
    });
    for (int64_t i = 0; i < count; ++i) {
      const auto part = [&](int tp) { return 1.0f / static_cast<float>(1 + tp + i % 97 + 19); };
      const float expected = part(0) + part(1) + part(2);
      for (const auto& result : results) ASSERT_EQ(result[static_cast<size_t>(i)], expected) << i;
    }
  }
}

TEST(Communicator, ASegmentLeftByAnotherOfItsProcessIdIsInNobodysWay) {
  const std::string stale = "/skein-" + std::to_string(getpid());
  const auto left = SharedMemory::create(stale, 4096);
  ASSERT_TRUE(left.ok()) << left.status().message();
  bool made = false;
  with_ranks(Transport::kSharedMemory, 1, 1, [&](Communicator&, int, int) { made = true; });
  EXPECT_TRUE(made);
}

TEST_P(CommunicatorOver, PlansReachEveryRankAndResultsTheLeader) {
  const std::string large(3 << 20, 'x');  // more than the stream holds at once
  with_ranks(GetParam(), 2, 2, [&](Communicator& communicator, int tp, int pp) {
    std::thread writer;
    if (tp == 0 && pp == 0) {
      writer = std::thread([&] {
        for (int i = 0; i < 100; ++i) communicator.send_plan("plan " + std::to_string(i));
        communicator.send_plan(large);
      });
    }
    for (int i = 0; i < 100; ++i) EXPECT_EQ(communicator.receive_plan(), "plan " + std::to_string(i));
    EXPECT_EQ(communicator.receive_plan(), large);
    if (writer.joinable()) writer.join();
    if (tp == 0 && pp == 1) {
      communicator.send_result("done");
      communicator.send_tokens("tokens");
    }
    if (tp == 0 && pp == 0) {
      EXPECT_EQ(communicator.receive_result(), "done");
    }
    EXPECT_EQ(communicator.receives_tokens(), pp == 0);
    if (pp == 0) {
      EXPECT_EQ(communicator.receive_tokens(), "tokens");
    }
  });
}

TEST_P(CommunicatorOver, StagesHandOnMoreThanTheStreamHolds) {
  with_ranks(GetParam(), 1, 3, [&](Communicator& communicator, int, int pp) {
    std::vector<float> data(2 << 20);
    if (pp == 0) std::iota(data.begin(), data.end(), 0.0f);
    if (pp > 0) communicator.receive_stage(data.data(), data.size() * sizeof(float));
    if (pp < 2) communicator.send_stage(data.data(), data.size() * sizeof(float));
    EXPECT_EQ(data[1], 1.0f);
    EXPECT_EQ(data.back(), static_cast<float>(data.size() - 1));
  });
}

TEST_P(CommunicatorOver, GathersUnequalColumns) {
  const int64_t begins[] = {0, 3, 4, 10};
  with_ranks(GetParam(), 3, 1, [&](Communicator& communicator, int tp, int) {
    const int64_t own = begins[tp + 1] - begins[tp];
    std::vector<float> part(static_cast<size_t>(5 * own));
    for (int64_t row = 0; row < 5; ++row) {
      for (int64_t i = 0; i < own; ++i) {
        part[static_cast<size_t>(row * own + i)] = static_cast<float>(100 * row + begins[tp] + i);
      }
    }
    std::vector<float> out(50, -1.0f);
    communicator.gather_columns(part.data(), 5, begins, out.data());
    if (tp != 0) return;
    for (int row = 0; row < 5; ++row) {
      for (int i = 0; i < 10; ++i) EXPECT_EQ(out[static_cast<size_t>(10 * row + i)], 100.0f * row + i);
    }
  });
}

// Two ranks over sockets; what rank 0's reads find once rank 1 has left is thrown, as a test may not end.
std::string what_the_other_finds(const std::function<void(Communicator&)>& reads) {
  Meeting meeting(2);
  std::string found;
  const auto run = [&](int rank) {
    const auto communicator = join(Transport::kSockets, {.tp_size = 2, .pp_size = 1, .tp_rank = rank, .pp_rank = 0},
                                   meeting, [](const std::string& what) { throw std::runtime_error(what); });
    ASSERT_TRUE(communicator.ok()) << communicator.status().message();
    if (rank == 1) return;  // its sockets close with it
    try {
      reads(**communicator);
    } catch (const std::runtime_error& error) {
      found = error.what();
    }
  };
  std::thread other([&] { run(1); });
  run(0);
  other.join();
  return found;
}

TEST(SocketCommunicator, APeerThatEndedIsFoundByWhoeverWaitsForIt) {
  std::vector<float> data(10, 1.0f);
  const std::string found =
      what_the_other_finds([&](Communicator& communicator) { communicator.all_reduce(data.data(), 10); });
  EXPECT_NE(found.find("rank 1"), std::string::npos) << found;
  EXPECT_NE(found.find("ended"), std::string::npos) << found;
}

}  // namespace
}  // namespace skein
