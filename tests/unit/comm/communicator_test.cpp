#include "comm/communicator.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <barrier>
#include <numeric>
#include <thread>

#include "comm/shared_memory.h"
#include "comm/shared_stream.h"

namespace skein {
namespace {

// Runs `body` on every rank of a replica; threads stand for processes, the segment is real.
void with_ranks(int tp_size, int pp_size, const std::function<void(Communicator&, int tp, int pp)>& body) {
  const int world = tp_size * pp_size;
  std::barrier meet(world);
  std::string shared;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world; ++rank) {
    ranks.emplace_back([&, rank] {
      const Communicator::Rendezvous rendezvous{
          .broadcast =
              [&](std::string bytes) {
                if (rank == 0) shared = bytes;
                meet.arrive_and_wait();
                return shared;
              },
          .barrier = [&] { meet.arrive_and_wait(); }};
      auto communicator = Communicator::create(
          {.tp_size = tp_size, .pp_size = pp_size, .tp_rank = rank % tp_size, .pp_rank = rank / tp_size}, rendezvous);
      ASSERT_TRUE(communicator.ok()) << communicator.status().message();
      body(**communicator, rank % tp_size, rank / tp_size);
      meet.arrive_and_wait();
    });
  }
  for (auto& rank : ranks) rank.join();
}

TEST(Communicator, AllReduceAddsInRankOrderOnEveryRank) {
  for (const int64_t count : {int64_t{1}, int64_t{576}, int64_t{200'001}}) {
    std::vector<std::vector<float>> results(3);
    with_ranks(3, 1, [&](Communicator& communicator, int tp, int) {
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
  with_ranks(1, 1, [&](Communicator&, int, int) { made = true; });
  EXPECT_TRUE(made);
}

TEST(Communicator, PlansReachEveryRankAndResultsTheLeader) {
  const std::string large(3 << 20, 'x');  // more than the stream holds at once
  with_ranks(2, 2, [&](Communicator& communicator, int tp, int pp) {
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

TEST(Communicator, StagesHandOnMoreThanTheStreamHolds) {
  with_ranks(1, 3, [&](Communicator& communicator, int, int pp) {
    std::vector<float> data(2 << 20);
    if (pp == 0) std::iota(data.begin(), data.end(), 0.0f);
    if (pp > 0) communicator.receive_stage(data.data(), data.size() * sizeof(float));
    if (pp < 2) communicator.send_stage(data.data(), data.size() * sizeof(float));
    EXPECT_EQ(data[1], 1.0f);
    EXPECT_EQ(data.back(), static_cast<float>(data.size() - 1));
  });
}

TEST(Communicator, GathersUnequalColumns) {
  const int64_t begins[] = {0, 3, 4, 10};
  with_ranks(3, 1, [&](Communicator& communicator, int tp, int) {
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

}  // namespace
}  // namespace skein
