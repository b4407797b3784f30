// Pipelines, recorded steps and the time that a device waited, on CPUs.

#include "worker/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

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

// --- Executor::size_pages() ---

// A device of its own memory, of which code takes some when a prompt first runs, and recordings while they are kept.
struct Meter {
  std::map<void*, int64_t> allocations;
  int64_t taken = 0, code = 0, recordings = 0;
  int64_t held() const { return taken + code + recordings; }
};
thread_local Meter meter;

constexpr int64_t kDeviceBytes = 4 << 20;
constexpr int64_t kCodeBytes = 300'000;
constexpr int64_t kRecordingBytes = 50'000;

Ops metered_ops() {
  Ops ops = recording_ops();
  ops.allocate = [](Device& device, int64_t bytes) -> Result<void*> {
    if (bytes > kDeviceBytes - meter.held()) return resource_exhausted("the device is full");
    ASSIGN_OR_RETURN(void* const data, recording_ops().allocate(device, bytes));
    meter.allocations[data] = bytes;
    meter.taken += bytes;
    return data;
  };
  ops.release = [](Device& device, void* data) {
    meter.taken -= meter.allocations[data];
    meter.allocations.erase(data);
    recording_ops().release(device, data);
  };
  ops.memory = [](Device&) -> Result<DeviceMemory> {
    return DeviceMemory{.total = kDeviceBytes, .free = kDeviceBytes - meter.held()};
  };
  ops.linear = [](Device& device, const LinearArgs& args) {
    if (args.x.rows > 8) meter.code = kCodeBytes;
    recording_ops().linear(device, args);
  };
  ops.end_record = [](Device& device) {
    meter.recordings += kRecordingBytes;
    return recording_ops().end_record(device);
  };
  ops.forget_recorded = [](Device& device) {
    meter.recordings = 0;
    recording_ops().forget_recorded(device);
  };
  return ops;
}

ReplicaSpec sized_spec() {
  ReplicaSpec spec = small_spec(1, 1);
  spec.slots = 4;
  spec.kv_blocks = 0;
  spec.memory_share = 0.75;
  spec.memory_reserve = 100'000;
  return spec;
}

TEST(SizedPages, TakeWhatIsLeftBesideTheMostThatAllElseTakes) {
  const ReplicaSpec spec = sized_spec();
  const auto checkpoint = value_of(Checkpoint::open(kModel, LoadFormat::kAuto));
  const Ops ops = metered_ops();
  meter = {};
  LoneRank rank(spec, *checkpoint, ops);
  EXPECT_EQ(meter.code, kCodeBytes) << "a prompt of the largest step has run";
  ASSERT_TRUE(rank.executor().record_decode_steps().ok());
  const int64_t recordings = meter.recordings;
  ASSERT_GT(recordings, 0);
  ASSERT_TRUE(rank.executor().size_pages().ok());
  EXPECT_EQ(meter.recordings, recordings) << "recorded anew, for the pages that there are";
  EXPECT_EQ(meter.taken, rank.executor().device_bytes());
  const auto& model = checkpoint->description();
  const int64_t block = int64_t{2} * model.kv_heads * model.head_dim * spec.block_tokens * 4 *
                        static_cast<int64_t>(model.layers.size());
  const auto limit = static_cast<int64_t>(0.75 * kDeviceBytes) - spec.memory_reserve;
  EXPECT_LE(meter.held(), limit);
  EXPECT_GT(meter.held(), limit - block);
}

TEST(SizedPages, GiveWhatPagesOfAGivenNumberGive) {
  const Ops ops = metered_ops();
  ReplicaHarness replica(sized_spec(), kModel, ops);
  expect_same(replica.run(requests()), answers(1, cpu_ops()));
}

TEST(SizedPages, AreRefusedWhereTheyHoldNoRequest) {
  ReplicaSpec spec = sized_spec();
  spec.memory_share = 0.3;
  const auto checkpoint = value_of(Checkpoint::open(kModel, LoadFormat::kAuto));
  const Ops ops = metered_ops();
  meter = {};
  const auto shards = value_of(plan_shards(checkpoint->description(), 1, 1));
  const auto communicator =
      value_of(Communicator::create({}, {.broadcast = [](std::string bytes) { return bytes; }, .barrier = [] {}}));
  const auto device = value_of(ops.open({.threads = 1}));
  SharedMemoryCollectives collectives({}, *communicator);
  const auto executor = Executor::create(spec, *checkpoint, shards[0], ops, *device,
                                         {.communicator = *communicator, .collectives = collectives,
                                          .minimum = [](int64_t value) { return value; }});
  ASSERT_FALSE(executor.ok());
  EXPECT_THAT(executor.status().message(), ::testing::HasSubstr("tokens of KV cache, less than one request of "
                                                                "max-model-len 1100"));
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
    EXPECT_TRUE(rank.executor().launch(warm_up_plan(spec, 1)).ok());
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
