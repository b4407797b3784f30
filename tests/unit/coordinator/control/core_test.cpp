#include "coordinator/control/core.h"

#include <gtest/gtest.h>

#include <set>

namespace skein {
namespace {

constexpr char kAgent[] = "agent-local";

template <typename T>
std::vector<T> of_kind(const Actions& actions) {
  std::vector<T> found;
  for (const Action& action : actions) {
    if (const T* body = std::get_if<T>(&action)) found.push_back(*body);
  }
  return found;
}

uint64_t launched(const Actions& actions) {
  for (const SendToAgent& send : of_kind<SendToAgent>(actions)) {
    if (const auto* launch = std::get_if<Launch>(&send.frame)) return launch->launch;
  }
  return 0;
}

GenerationRequest request(int prompt, int max_tokens = 10, int choices = 1) {
  GenerationRequest request;
  request.tokens.assign(static_cast<size_t>(prompt), 1);
  request.prompt_tokens = prompt;
  request.choices = choices;
  request.sampling.max_tokens = max_tokens;
  return request;
}

TokenFrame tokens(uint64_t id, int32_t first, std::vector<int32_t> ids, FinishReason finish = FinishReason::kNone,
                  int32_t choice = 0, uint32_t epoch = 1) {
  TokenFrame frame;
  frame.request = id;
  frame.epoch = epoch;
  frame.choice = choice;
  frame.first_index = first;
  frame.tokens = std::move(ids);
  frame.finish = finish;
  return frame;
}

// A Core whose replicas (launches 1, 2, ...) are ready at time 0.
class CoreTest : public ::testing::Test {
 protected:
  Core make(int replicas, CoreConfig config = {}) {
    config.replicas.resize(static_cast<size_t>(replicas));
    for (ReplicaSpec& spec : config.replicas) spec.context_max = 100;
    Core core(config);
    Actions actions;
    core.agent_frame(kAgent, RegisterAgent{.node = kThisMachine, .build = SKEIN_BUILD}, 0, &actions);
    for (int i = 1; i <= replicas; ++i) register_replica(core, static_cast<uint64_t>(i), 0);
    return core;
  }

  static Actions register_replica(Core& core, uint64_t launch, int64_t now) {
    Actions actions;
    core.replica_frame(launch, RegisterReplica{.launch = launch}, now, &actions);
    return actions;
  }
};

TEST_F(CoreTest, LaunchesEveryReplicaOnceTheAgentIsThere) {
  CoreConfig config;
  config.replicas.resize(2);
  Core core(config);
  Actions actions;
  core.tick(0, &actions);
  EXPECT_TRUE(actions.empty());
  core.agent_frame(kAgent, RegisterAgent{.node = kThisMachine, .build = SKEIN_BUILD}, 0, &actions);
  EXPECT_EQ(of_kind<SendToAgent>(actions).size(), 2u);
  EXPECT_EQ(core.ready(), 0);
  EXPECT_EQ(of_kind<ReplicaReady>(register_replica(core, 1, 5)).size(), 1u);
  EXPECT_FALSE(core.all_were_ready());
  register_replica(core, 2, 5);
  EXPECT_TRUE(core.all_were_ready());
}

TEST_F(CoreTest, SendsWorkToTheReplicaWithTheLeastCharge) {
  Core core = make(2);
  Actions actions;
  ASSERT_TRUE(core.submit(request(50), &actions).ok());
  ASSERT_TRUE(core.submit(request(5), &actions).ok());
  ASSERT_TRUE(core.submit(request(5), &actions).ok());
  const auto sends = of_kind<SendToReplica>(actions);
  EXPECT_EQ(sends[0].launch, 1u);
  EXPECT_EQ(sends[1].launch, 2u);
  EXPECT_EQ(sends[2].launch, 2u);
}

TEST_F(CoreTest, EqualReplicasTakeTurns) {
  Core core = make(3);
  std::vector<uint64_t> launches;
  for (int i = 0; i < 6; ++i) {
    Actions actions;
    const uint64_t id = *core.submit(request(5), &actions);
    launches.push_back(of_kind<SendToReplica>(actions).at(0).launch);
    core.cancel(id, &actions);
  }
  EXPECT_EQ(launches, (std::vector<uint64_t>{1, 2, 3, 1, 2, 3}));
}

TEST_F(CoreTest, AcceptsOnlyTheNextIndexOfTheCurrentEpoch) {
  Core core = make(1);
  Actions actions;
  const uint64_t id = *core.submit(request(3), &actions);
  const auto deliver = [&](TokenFrame frame) {
    Actions out;
    core.replica_frame(1, std::move(frame), 1, &out);
    return of_kind<DeliverFrame>(out).size();
  };
  EXPECT_EQ(deliver(tokens(id, 0, {7})), 1u);
  EXPECT_EQ(deliver(tokens(id, 0, {7})), 0u) << "repeated";
  EXPECT_EQ(deliver(tokens(id, 2, {9})), 0u) << "skips one";
  EXPECT_EQ(deliver(tokens(id, 1, {8}, FinishReason::kNone, 0, 2)), 0u) << "another epoch";
  EXPECT_EQ(deliver(tokens(id, 1, {8}, FinishReason::kNone, 1)), 0u) << "no such choice";
  EXPECT_EQ(deliver(tokens(id, 1, {8, 9}, FinishReason::kStop)), 1u);
  EXPECT_EQ(deliver(tokens(id, 3, {8})), 0u) << "after the end";
  EXPECT_EQ(core.requests(), 0u);
  EXPECT_EQ(core.replicas()[0].charge, 0);
}

TEST_F(CoreTest, ARequestEndsWhenAllItsChoicesHave) {
  Core core = make(1);
  Actions actions;
  const uint64_t id = *core.submit(request(3, 10, 2), &actions);
  core.replica_frame(1, tokens(id, 0, {7}, FinishReason::kStop, 1), 1, &actions);
  EXPECT_EQ(core.requests(), 1u);
  core.replica_frame(1, tokens(id, 0, {7}, FinishReason::kLength, 0), 1, &actions);
  EXPECT_EQ(core.requests(), 0u);
}

TEST_F(CoreTest, ALostReplicaEndsItsRequestsAndComesBackWithBackOff) {
  Core core = make(2);
  Actions actions;
  const uint64_t first = *core.submit(request(3, 10, 2), &actions);
  ASSERT_TRUE(core.submit(request(50), &actions).ok());
  Actions lost;
  core.agent_frame(kAgent, LaunchEnded{.launch = 1, .exit_status = 137, .reason = "killed"}, 1000, &lost);
  const auto ends = of_kind<DeliverFrame>(lost);
  ASSERT_EQ(ends.size(), 2u) << "one for each choice";
  for (const DeliverFrame& end : ends) {
    EXPECT_EQ(end.frame.request, first);
    EXPECT_EQ(end.frame.finish, FinishReason::kError);
    EXPECT_NE(end.frame.error.find("killed"), std::string::npos);
  }
  EXPECT_EQ(of_kind<ReplicaLost>(lost).at(0).requests, 1);
  EXPECT_EQ(core.requests(), 1u);

  int64_t now = 1000;
  int64_t delay = 500;
  for (int round = 0; round < 8; ++round) {
    Actions early;
    core.tick(now + delay - 1, &early);
    EXPECT_EQ(launched(early), 0u);
    Actions due;
    core.tick(now + delay, &due);
    const uint64_t launch = launched(due);
    ASSERT_GT(launch, 2u);
    now += delay;
    Actions ended;
    core.agent_frame(kAgent, LaunchEnded{.launch = launch, .exit_status = 1, .reason = "again"}, now, &ended);
    delay = std::min<int64_t>(2 * delay, 30'000);
  }
}

TEST_F(CoreTest, BackOffStartsOverAfterAHealthyTime) {
  Core core = make(1);
  Actions actions;
  core.agent_frame(kAgent, LaunchEnded{.launch = 1, .exit_status = 1, .reason = "x"}, 100, &actions);
  core.tick(600, &actions);
  register_replica(core, 2, 600);
  Actions lost;
  core.agent_frame(kAgent, LaunchEnded{.launch = 2, .exit_status = 1, .reason = "x"}, 60'600, &lost);
  EXPECT_EQ(of_kind<ReplicaLost>(lost).at(0).retry_in_ms, 500);
}

TEST_F(CoreTest, AHealthyTimeCountsHoweverItEnded) {
  CoreConfig config;
  config.backoff_min_ms = 500;
  Core core = make(1, config);
  Actions actions;
  core.agent_frame(kAgent, LaunchEnded{.launch = 1}, 1000, &actions);
  core.tick(1500, &actions);
  register_replica(core, 2, 2000);
  for (int64_t now = 2050; core.ready() == 1; now += 50) {
    if (now < 90'000) core.replica_frame(2, ReplicaStatus{}, now, &actions);
    core.tick(now, &actions);
  }
  Actions lost;
  core.agent_frame(kAgent, LaunchEnded{.launch = 2}, 93'000, &lost);
  EXPECT_EQ(of_kind<ReplicaLost>(lost).at(0).retry_in_ms, 500) << "ended as it was silent, after 90 s";
}

TEST_F(CoreTest, FramesOfAnOlderLaunchAreStale) {
  Core core = make(1);
  Actions actions;
  core.agent_frame(kAgent, LaunchEnded{.launch = 1, .exit_status = 1, .reason = "x"}, 100, &actions);
  core.tick(600, &actions);
  EXPECT_TRUE(register_replica(core, 1, 700).empty());
  EXPECT_EQ(core.ready(), 0);
  EXPECT_EQ(register_replica(core, 2, 700).size(), 1u);
}

TEST_F(CoreTest, ASilentReplicaIsEndedAndItsRequestsAtOnce) {
  Core core = make(1);
  Actions actions;
  ASSERT_TRUE(core.submit(request(3), &actions).ok());
  Actions quiet;
  for (int64_t now = 0; now <= 2000; now += 50) core.tick(now, &quiet);
  EXPECT_TRUE(quiet.empty());
  core.tick(2001, &quiet);
  EXPECT_EQ(of_kind<DeliverFrame>(quiet).size(), 1u);
  const auto sends = of_kind<SendToAgent>(quiet);
  ASSERT_EQ(sends.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<EndLaunch>(sends[0].frame));
  EXPECT_FALSE(core.submit(request(3), &actions).ok());
}

TEST_F(CoreTest, APauseOfItsOwnIsNobodysSilence) {
  Core core = make(1);
  Actions actions;
  core.tick(50, &actions);
  core.tick(60'000, &actions);  // the machine was paused: what the replica said is not read yet
  EXPECT_TRUE(actions.empty());
  core.replica_frame(1, ReplicaStatus{}, 60'001, &actions);
  for (int64_t now = 60'050; now <= 62'001; now += 50) core.tick(now, &actions);
  EXPECT_TRUE(actions.empty());
}

TEST_F(CoreTest, FailingBeforeTheFirstReadyEndsTheStart) {
  CoreConfig config;
  config.replicas.resize(1);
  Core core(config);
  Actions actions;
  core.agent_frame(kAgent, RegisterAgent{.node = kThisMachine, .build = SKEIN_BUILD}, 0, &actions);
  core.agent_frame(kAgent, LaunchEnded{.launch = 1, .exit_status = 1, .reason = "a tensor is missing"}, 10, &actions);
  const auto failed = of_kind<StartFailed>(actions);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].reason, "a tensor is missing");
}

TEST_F(CoreTest, RefusesOverTheLimitWhileDrainingAndWithoutReplicas) {
  CoreConfig config;
  config.waiting_max = 2;
  Core core = make(1, config);
  Actions actions;
  ASSERT_TRUE(core.submit(request(3), &actions).ok());
  const uint64_t id = *core.submit(request(3), &actions);
  EXPECT_EQ(core.submit(request(3), &actions).status().code(), Code::kResourceExhausted);
  core.cancel(id, &actions);
  EXPECT_TRUE(std::holds_alternative<CancelRequest>(of_kind<SendToReplica>(actions).back().frame));
  EXPECT_TRUE(core.submit(request(3), &actions).ok());
  EXPECT_EQ(core.submit(request(3, 10, 65), &actions).status().code(), Code::kResourceExhausted);
  core.drain();
  EXPECT_EQ(core.submit(request(3), &actions).status().code(), Code::kUnavailable);
}

TEST_F(CoreTest, MoreChoicesThanSlotsAreRefused) {
  Core core = make(1);
  Actions actions;
  EXPECT_EQ(core.submit(request(3, 10, 65), &actions).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace skein
