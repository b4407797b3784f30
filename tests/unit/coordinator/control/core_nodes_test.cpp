#include <gtest/gtest.h>

#include "coordinator/control/core.h"

namespace skein {
namespace {

template <typename T>
std::vector<T> of_kind(const Actions& actions) {
  std::vector<T> found;
  for (const Action& action : actions) {
    if (const T* body = std::get_if<T>(&action)) found.push_back(*body);
  }
  return found;
}

// What agents are told, as "peer: kind".
template <typename T>
std::vector<std::pair<std::string, T>> to_agents(const Actions& actions) {
  std::vector<std::pair<std::string, T>> found;
  for (const SendToAgent& send : of_kind<SendToAgent>(actions)) {
    if (const T* body = std::get_if<T>(&send.frame)) found.emplace_back(send.peer, *body);
  }
  return found;
}

RegisterAgent agent(const std::string& node, std::vector<AgentJob> jobs = {}) {
  return {.node = node,
          .build = SKEIN_BUILD,
          .instance = 1,
          .address = "10.0.0." + std::to_string(node.back() - 'a' + 1),
          .network = "10.0.0.0/24",
          .topology = {},
          .jobs = std::move(jobs)};
}

GenerationRequest short_request() {
  GenerationRequest request;
  request.tokens = {1, 2, 3};
  request.prompt_tokens = 3;
  request.choices = 1;
  request.sampling.max_tokens = 10;
  return request;
}

// A replica of two ranks, on nodes a and b; peers have their nodes' names.
class CoreNodesTest : public ::testing::Test {
 protected:
  static Core make() {
    CoreConfig config;
    config.own_agents = true;
    config.instance = 77;
    config.first_launch = 100;
    config.launch_timeout_ms = 10'000;
    ReplicaSpec spec;
    spec.tensor_parallel_size = 2;
    spec.context_max = 100;
    spec.places = {{"a", 0}, {"b", 0}};
    config.replicas = {spec};
    return Core(config);
  }

  static Actions agent_says(Core& core, const std::string& node, Frame frame, int64_t now) {
    Actions actions;
    core.agent_frame(node, std::move(frame), now, &actions);
    return actions;
  }

  static Launch launch(Core& core) {
    agent_says(core, "a", agent("a"), 0);
    const auto launches = to_agents<Launch>(agent_says(core, "b", agent("b"), 0));
    EXPECT_EQ(launches.size(), 1u);
    return launches.empty() ? Launch{} : launches[0].second;
  }

  static Actions leader_registers(Core& core, uint64_t launch, int64_t now) {
    Actions actions;
    core.replica_frame(launch, RegisterReplica{.launch = launch}, now, &actions);
    return actions;
  }

  // Ticks to `now` in steps, with a sign of every node but `silent`.
  static Actions pass(Core& core, int64_t from, int64_t until, const std::string& silent, uint64_t launch) {
    Actions actions;
    for (int64_t now = from; now <= until; now += 50) {
      for (const std::string node : {"a", "b"}) {
        if (node != silent) core.agent_frame(node, AgentStatus{{launch}}, now, &actions);
      }
      core.replica_frame(launch, ReplicaStatus{}, now, &actions);
      core.tick(now, &actions);
    }
    return actions;
  }
};

TEST_F(CoreNodesTest, LaunchesOnceEveryNodeIsThere) {
  Core core = make();
  EXPECT_TRUE(to_agents<Launch>(agent_says(core, "b", agent("b"), 0)).empty());
  const auto launches = to_agents<Launch>(agent_says(core, "a", agent("a"), 5000));
  ASSERT_EQ(launches.size(), 1u);
  EXPECT_EQ(launches[0].first, "a");  // the first node runs mpirun
  const Launch& launch = launches[0].second;
  ASSERT_EQ(launch.nodes.size(), 2u);
  EXPECT_EQ(launch.nodes[1].node, "b");
  EXPECT_EQ(launch.nodes[1].address, "10.0.0.2");
  EXPECT_NE(launch.spec.find("10.0.0.0/24"), std::string::npos);
}

TEST_F(CoreNodesTest, NamesTheNodesThatDidNotCome) {
  Core core = make();
  agent_says(core, "a", agent("a"), 0);
  RegisterAgent old = agent("b");
  old.build = "0.0.1";
  const auto refusals = to_agents<RefuseAgent>(agent_says(core, "b", old, 0));
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_NE(refusals[0].second.reason.find("0.0.1"), std::string::npos);
  EXPECT_TRUE(of_kind<StartFailed>(pass(core, 50, 10'000, "b", 0)).empty());
  const auto failed = of_kind<StartFailed>(pass(core, 10'050, 10'200, "b", 0));
  ASSERT_FALSE(failed.empty());
  EXPECT_NE(failed[0].reason.find("the agents of b:"), std::string::npos) << failed[0].reason;
  EXPECT_NE(failed[0].reason.find("install the same version"), std::string::npos) << failed[0].reason;
}

TEST_F(CoreNodesTest, ASecondAgentOfANameIsRefusedAndTheFirstStays) {
  Core core = make();
  agent_says(core, "a", agent("a"), 0);
  RegisterAgent second = agent("a");
  second.instance = 2;
  EXPECT_TRUE(agent_says(core, "other", second, 0).empty());
  pass(core, 50, 1000, "b", 0);
  const auto refusals = to_agents<RefuseAgent>(agent_says(core, "other", second, 1000));
  ASSERT_EQ(refusals.size(), 1u);
  EXPECT_EQ(refusals[0].first, "other");
  EXPECT_NE(refusals[0].second.reason.find("another agent is here as a"), std::string::npos);
  EXPECT_EQ(core.nodes().find("a")->peer, "a");
}

TEST_F(CoreNodesTest, AnAgentThatIsStartedAgainAtOnceTakesItsPlace) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  leader_registers(core, id, 100);
  pass(core, 150, 1000, "", id);
  RegisterAgent next = agent("a");
  next.instance = 2;
  Actions actions;
  for (int64_t now = 1050; now <= 3200; now += 50) {
    core.agent_frame("next", next, now, &actions);
    core.agent_frame("b", AgentStatus{{}}, now, &actions);
    core.tick(now, &actions);
  }
  EXPECT_TRUE(to_agents<RefuseAgent>(actions).empty());
  EXPECT_EQ(core.nodes().find("a")->peer, "next");
  EXPECT_EQ(of_kind<ReplicaLost>(actions).size(), 1u);
}

TEST_F(CoreNodesTest, ARegistrationThatWasLostIsAskedForAgain) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  Actions actions;
  core.replica_frame(id, ReplicaStatus{}, 50, &actions);
  ASSERT_EQ(of_kind<SendToReplica>(actions).size(), 1u);
  EXPECT_TRUE(std::holds_alternative<Introduce>(of_kind<SendToReplica>(actions)[0].frame));
  EXPECT_EQ(of_kind<ReplicaReady>(leader_registers(core, id, 60)).size(), 1u);
}

TEST_F(CoreNodesTest, WhatABrokenConnectionMayHaveTakenEnds) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  leader_registers(core, id, 50);
  Actions actions;
  const uint64_t request = *core.submit(short_request(), &actions);
  EXPECT_TRUE(leader_registers(core, id, 60).empty()) << "said again, with nothing lost";
  Actions again;
  core.replica_reconnected(id, &again);
  core.replica_frame(id, ReplicaStatus{.launch = id}, 70, &again);
  ASSERT_EQ(of_kind<DeliverFrame>(again).size(), 1u);
  EXPECT_EQ(of_kind<DeliverFrame>(again)[0].frame.request, request);
  EXPECT_EQ(of_kind<DeliverFrame>(again)[0].frame.finish, FinishReason::kError);
  ASSERT_EQ(of_kind<SendToReplica>(again).size(), 1u);
  const auto instance_said = [](const SendToReplica& sent) { return std::get<Introduce>(sent.frame).instance; };
  const uint64_t instance = instance_said(of_kind<SendToReplica>(again)[0]);
  EXPECT_EQ(core.requests(), 0u);
  EXPECT_EQ(core.replicas()[0].charge, 0);
  EXPECT_EQ(core.ready(), 1);
  EXPECT_TRUE(to_agents<EndLaunch>(again).empty());
  EXPECT_TRUE(core.submit(short_request(), &actions).ok());
  again.clear();
  core.replica_reconnected(id, &again);
  EXPECT_NE(instance_said(of_kind<SendToReplica>(again).at(0)), instance) << "nothing asked for since is wanted, either";
}

TEST_F(CoreNodesTest, AReplicaThatCannotBeReachedGetsNothingUntilItIsHeard) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  leader_registers(core, id, 50);
  Actions actions;
  EXPECT_TRUE(core.submit(short_request(), &actions).ok());
  actions.clear();
  core.send_failed(id, "no connection", 60, &actions);
  EXPECT_EQ(of_kind<DeliverFrame>(actions).size(), 1u);
  EXPECT_TRUE(to_agents<EndLaunch>(actions).empty()) << "its lease is what counts";
  EXPECT_EQ(core.submit(short_request(), &actions).status().code(), Code::kUnavailable);
  EXPECT_EQ(core.ready(), 0);
  core.replica_frame(id, ReplicaStatus{}, 70, &actions);
  EXPECT_TRUE(core.submit(short_request(), &actions).ok());
}

TEST_F(CoreNodesTest, WhatIsLeftOfALaunchIsNotWaitedForLongerThanALaunch) {
  Core before = make();
  const Launch launched = launch(before);
  const AgentJob job{.launch = launched.launch, .replica = 0, .identity = launched.identity};
  Core core = make();
  agent_says(core, "a", agent("a"), 0);
  agent_says(core, "b", agent("b", {job}), 0);  // its share; the rest has ended
  Actions actions;
  for (int64_t now = 50; now <= 10'200; now += 50) {
    core.agent_frame("a", AgentStatus{}, now, &actions);
    core.tick(now, &actions);  // and b is gone
  }
  EXPECT_EQ(of_kind<ReplicaLost>(actions).size(), 1u);
  ASSERT_FALSE(of_kind<StartFailed>(actions).empty());
  EXPECT_NE(of_kind<StartFailed>(actions)[0].reason.find("the agents of b:"), std::string::npos);
}

TEST_F(CoreNodesTest, AnAgentThatComesLateHearsThatItsReplicaServes) {
  Core before = make();
  const Launch launched = launch(before);
  const AgentJob job{.launch = launched.launch, .replica = 0, .identity = launched.identity};
  Core core = make();
  agent_says(core, "a", agent("a", {job}), 0);
  leader_registers(core, job.launch, 10);
  const auto told = to_agents<LaunchReady>(agent_says(core, "b", agent("b", {job}), 20));
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].first, "b");
}

TEST_F(CoreNodesTest, OrtedsCommandGoesToItsNodeAndTheAnswerBack) {
  Core core = make();
  const Launch launched = launch(core);
  StartDaemon start;
  start.job.launch = launched.launch;
  start.node = "b";
  start.command = "orted x";
  const auto sent = to_agents<StartDaemon>(agent_says(core, "a", start, 10));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].first, "b");
  EXPECT_EQ(sent[0].second.command, "orted x");
  const auto back = to_agents<DaemonStarted>(agent_says(core, "b", DaemonStarted{launched.launch, "b", "no orted"}, 20));
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].first, "a");
  EXPECT_EQ(back[0].second.error, "no orted");
  start.node = "c";
  const auto refused = to_agents<DaemonStarted>(agent_says(core, "a", start, 30));
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_NE(refused[0].second.error.find("c is not connected"), std::string::npos);
}

TEST_F(CoreNodesTest, OnlyTheFirstNodeStartsAndOnlyOnNodesOfItsLaunch) {
  Core core = make();
  StartDaemon start;
  start.job.launch = launch(core).launch;
  start.node = "a";
  const Actions other = agent_says(core, "b", start, 10);
  EXPECT_TRUE(to_agents<StartDaemon>(other).empty());
  const auto told = to_agents<DaemonStarted>(other);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].first, "b");
  EXPECT_EQ(told[0].second.error, "only the agent of a starts this launch");
  agent_says(core, "c", agent("c"), 20);
  start.node = "c";
  const Actions elsewhere = agent_says(core, "a", start, 30);
  EXPECT_TRUE(to_agents<StartDaemon>(elsewhere).empty());
  EXPECT_EQ(to_agents<DaemonStarted>(elsewhere).at(0).second.error, "the launch has no ranks on c");
}

TEST_F(CoreNodesTest, ASilentNodeEndsItsReplicaOnTheOthers) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  leader_registers(core, id, 100);
  const Actions actions = pass(core, 150, 2300, "b", id);
  const auto ends = to_agents<EndLaunch>(actions);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].first, "a");
  const auto lost = of_kind<ReplicaLost>(agent_says(core, "a", LaunchEnded{.launch = id, .exit_status = 143}, 2350));
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_NE(lost[0].reason.find("the agent of b was silent"), std::string::npos) << lost[0].reason;
  // Back again, it still has its share: that is ended before anything is launched.
  agent_says(core, "b", agent("b", {{.launch = id}}), 10'000);
  Actions before;
  core.tick(10'000, &before);
  EXPECT_TRUE(to_agents<Launch>(before).empty());
  EXPECT_EQ(to_agents<EndLaunch>(agent_says(core, "b", AgentStatus{{id}}, 10'000)).size(), 1u);
  agent_says(core, "b", LaunchEnded{.launch = id}, 10'010);
  Actions after;
  core.tick(10'010, &after);
  EXPECT_EQ(to_agents<Launch>(after).size(), 1u);
}

TEST_F(CoreNodesTest, AShareThatEndsWithoutTheRestIsNotWaitedFor) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  agent_says(core, "b", LaunchEnded{.launch = id, .exit_status = 1, .reason = "orted said no"}, 100);
  EXPECT_TRUE(to_agents<EndLaunch>(pass(core, 150, 2000, "", id)).empty());  // mpirun's own word comes first
  EXPECT_FALSE(to_agents<EndLaunch>(pass(core, 2050, 2300, "", id)).empty());
  const auto failed = of_kind<StartFailed>(agent_says(core, "a", LaunchEnded{.launch = id}, 2350));
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].reason, "its ranks on b ended: orted said no");
}

TEST_F(CoreNodesTest, ALaunchThatItsAgentDoesNotKnowIsLost) {
  Core core = make();
  const uint64_t id = launch(core).launch;
  Actions actions;
  for (int64_t now = 50; now <= 2200; now += 50) {
    core.agent_frame("a", AgentStatus{}, now, &actions);
    core.agent_frame("b", AgentStatus{}, now, &actions);
    core.tick(now, &actions);
  }
  const auto failed = of_kind<StartFailed>(actions);
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_NE(failed[0].reason.find("the agent of a does not run it any more"), std::string::npos);
  EXPECT_NE(id, 0u);
}

TEST_F(CoreNodesTest, AdoptsAReplicaOfTheSameSpecification) {
  Core before = make();
  const Launch launched = launch(before);
  // The coordinator before may have counted its replicas otherwise.
  const AgentJob job{.launch = launched.launch, .replica = 3, .identity = launched.identity};

  Core core = make();
  // Unknown peers are asked who they are.
  const auto asked = to_agents<Introduce>(agent_says(core, "a", AgentStatus{{job.launch}}, 0));
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].second.instance, 77u);
  EXPECT_TRUE(to_agents<Launch>(agent_says(core, "a", agent("a", {job}), 10)).empty());
  EXPECT_TRUE(to_agents<Launch>(agent_says(core, "b", agent("b", {job}), 20)).empty());
  // A leader that does not know of the change only sends its status.
  Actions status;
  core.replica_frame(job.launch, ReplicaStatus{}, 25, &status);
  ASSERT_EQ(of_kind<SendToReplica>(status).size(), 1u);
  EXPECT_TRUE(std::holds_alternative<Introduce>(of_kind<SendToReplica>(status)[0].frame));
  EXPECT_EQ(of_kind<ReplicaReady>(leader_registers(core, job.launch, 30)).size(), 1u);
  EXPECT_TRUE(to_agents<EndLaunch>(pass(core, 50, 5000, "", job.launch)).empty());
}

TEST_F(CoreNodesTest, EndsWhatAnotherPlanLeftBeforeItLaunches) {
  const AgentJob job{.launch = 9, .replica = 0, .identity = "of another plan"};
  Core core = make();
  agent_says(core, "a", agent("a", {job}), 0);
  EXPECT_TRUE(to_agents<Launch>(agent_says(core, "b", agent("b"), 0)).empty());
  EXPECT_EQ(to_agents<EndLaunch>(agent_says(core, "a", AgentStatus{{9}}, 100)).size(), 1u);
  agent_says(core, "a", LaunchEnded{.launch = 9}, 200);
  Actions actions;
  core.tick(250, &actions);
  EXPECT_EQ(to_agents<Launch>(actions).size(), 1u);
}

TEST_F(CoreNodesTest, AnAdoptedReplicaWhoseLeaderDoesNotComeIsLaunchedAnew) {
  Core before = make();
  const Launch launched = launch(before);
  const AgentJob job{.launch = launched.launch, .replica = 0, .identity = launched.identity};
  Core core = make();
  agent_says(core, "a", agent("a", {job}), 0);
  agent_says(core, "b", agent("b", {job}), 0);
  EXPECT_FALSE(to_agents<EndLaunch>(pass(core, 50, 10'200, "", job.launch)).empty());
  const Actions ended = agent_says(core, "a", LaunchEnded{.launch = job.launch}, 10'300);
  EXPECT_TRUE(of_kind<StartFailed>(ended).empty());  // not this server's start
  EXPECT_EQ(of_kind<ReplicaLost>(ended).size(), 1u);
}

}  // namespace
}  // namespace skein
