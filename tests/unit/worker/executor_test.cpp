// Pipelines, recorded steps and the time that a device waited, on CPUs.

#include "worker/executor.h"

#include <gtest/gtest.h>

#include "tests/support/lone_rank.h"
#include "tests/support/recording_ops.h"
#include "tests/support/replica_harness.h"

namespace skein::testing {
namespace {

constexpr char kModel[] = "tests/oracles/fixtures/llama_gqa";

// Short and long prompts, greedy and drawn, with penalties on what was generated.
std::vector<GenerationRequest> requests() {
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 9; ++i) {
    GenerationRequest request;
    for (int t = 0; t < 1 + i * 23 % 70; ++t) request.tokens.push_back((i * 31 + t * 17) % 256);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    request.sampling.frequency_penalty = i % 3 == 0 ? 1.5f : 0;
    request.sampling.repetition_penalty = i % 3 == 1 ? 1.3f : 1;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.max_tokens = 10 + i;
    request.sampling.prompt_logprobs = i == 4 ? 0 : -1;
    requests.push_back(request);
  }
  return requests;
}

// Four slots: recording_ops.h.
std::vector<std::vector<ReplicaHarness::Answer>> answers(int stages, const Ops& ops) {
  ReplicaSpec spec = small_spec(1, stages);
  spec.slots = 4;
  ReplicaHarness replica(spec, kModel, ops);
  return replica.run(requests());
}

void expect_same(const std::vector<std::vector<ReplicaHarness::Answer>>& some,
                 const std::vector<std::vector<ReplicaHarness::Answer>>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE("request " + std::to_string(i));
    const ReplicaHarness::Answer& a = some[i][0];
    const ReplicaHarness::Answer& b = expected[i][0];
    EXPECT_EQ(a.error, "");
    EXPECT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
    for (size_t t = 0; t < b.logprobs.size(); ++t) EXPECT_EQ(a.logprobs[t].logprob, b.logprobs[t].logprob);
    ASSERT_EQ(a.prompt_logprobs.size(), b.prompt_logprobs.size());
    for (size_t t = 0; t < b.prompt_logprobs.size(); ++t) {
      EXPECT_EQ(a.prompt_logprobs[t].logprob, b.prompt_logprobs[t].logprob);
    }
  }
}

TEST(Executor, StagesGiveWhatOneRankGives) {
  const auto expected = answers(1, cpu_ops());
  expect_same(answers(2, cpu_ops()), expected);
}

TEST(Executor, EveryStageReplaysItsPartOfADecodeStep) {
  const auto expected = answers(1, cpu_ops());
  for (const int stages : {1, 2, 3}) {
    SCOPED_TRACE(std::to_string(stages) + " stages");
    const int64_t before = replays();
    expect_same(answers(stages, recording_ops()), expected);
    EXPECT_EQ((replays() - before) % stages, 0);
    // At most four rows a step: 126 tokens are sampled, 9 of them by steps with prompts.
    EXPECT_GE(replays() - before, stages * 20);
  }
}

// --- StepResult::waited_ns ---

// A device that says of itself what a test wants.
struct Said {
  int gathers = 0, products = 0, replays = 0;  // that it was given
  int through_after = 0;  // it comes to the end of earlier steps when it has been given so many products of this one
  std::vector<std::string> asked;  // what it had been given each time it was asked for how long it was through
};
Said said;

constexpr int64_t kIdleNs = 5000;

Ops telling_ops(const Ops& from, bool queues) {
  Ops ops = from;
  ops.gather = [](Device& device, const GatherArgs& args) {
    ++said.gathers;
    recording_ops().gather(device, args);
  };
  ops.linear = [](Device& device, const LinearArgs& args) {
    ++said.products;
    recording_ops().linear(device, args);
  };
  ops.replay = [](Device& device, uint64_t key) {
    ++said.replays;
    return recording_ops().replay(device, key);
  };
  ops.reached = [](Device&, uint64_t) -> Result<bool> { return said.products >= said.through_after; };
  ops.since = [](Device&, uint64_t) -> Result<int64_t> {
    said.asked.push_back(std::to_string(said.gathers) + " gathers, " + std::to_string(said.products) + " products, " +
                         std::to_string(said.replays) + " replays");
    return kIdleNs;
  };
  if (queues) ops.native_stream = [](Device&) -> void* { return &said; };
  return ops;
}

class WaitedTime : public ::testing::Test {
 protected:
  // What a step of one token says, on a device that is through with the ones before after so many products.
  int64_t waited_ns(const Ops& ops, int through_after = 0) {
    ReplicaSpec spec = small_spec(1, 1);
    spec.slots = 4;
    const auto checkpoint = value_of(Checkpoint::open(kModel, LoadFormat::kAuto));
    said = {};
    LoneRank rank(spec, *checkpoint, ops);
    EXPECT_TRUE(rank.executor().record_decode_steps().ok());
    said = {};
    said.through_after = through_after;
    EXPECT_TRUE(rank.executor().launch(warm_up_plan(1)).ok());
    const auto result = value_of(rank.executor().finish());
    EXPECT_TRUE(result.has_value());
    return result ? result->waited_ns : -1;
  }
};

TEST_F(WaitedTime, EndsWithTheFirstLaunchOfAStep) {
  EXPECT_EQ(waited_ns(telling_ops(cpu_ops(), true)), kIdleNs);
  EXPECT_EQ(said.asked, std::vector<std::string>{"1 gathers, 0 products, 0 replays"});
}

TEST_F(WaitedTime, EndsWithARecording) {
  EXPECT_EQ(waited_ns(telling_ops(recording_ops(), true)), kIdleNs);
  EXPECT_EQ(said.asked, std::vector<std::string>{"0 gathers, 0 products, 1 replays"});
}

TEST_F(WaitedTime, IsNoneWhereTheDeviceIsAtWorkWhenTheStepBegins) {
  EXPECT_EQ(waited_ns(telling_ops(cpu_ops(), true), 3), 0);
  EXPECT_GT(said.products, 3) << "earlier steps ended while this one was launched";
  EXPECT_TRUE(said.asked.empty());
}

TEST_F(WaitedTime, EndsBeforeAStepOfADeviceWithoutAQueue) {
  EXPECT_EQ(waited_ns(telling_ops(cpu_ops(), false)), kIdleNs);
  EXPECT_EQ(said.asked, std::vector<std::string>{"0 gathers, 0 products, 0 replays"});
}

}  // namespace
}  // namespace skein::testing
