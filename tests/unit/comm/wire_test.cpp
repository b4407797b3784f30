#include "comm/wire.h"

#include <gtest/gtest.h>

#include "base/probe.h"

namespace skein {
namespace {

TEST(Wire, RequestSurvivesTheRoundTrip) {
  GenerationRequest request;
  request.id = 7;
  request.epoch = 3;
  request.tokens = {1, 2, 3, 4};
  request.prompt_tokens = 3;
  request.choices = 2;
  request.sampling.temperature = 0.5f;
  request.sampling.seed = ~uint64_t{0};
  request.sampling.top_logprobs = -1;
  request.sampling.stop_tokens = {9, 10};
  request.sampling.logit_bias = {{5, -100.0f}};
  request.cache_salt = std::string("a\0b", 3);
  const auto frame = decode_frame(encode_frame(request));
  ASSERT_TRUE(frame.ok()) << frame.status().message();
  const auto& back = std::get<GenerationRequest>(*frame);
  EXPECT_EQ(back.id, 7u);
  EXPECT_EQ(back.epoch, 3u);
  EXPECT_EQ(back.tokens, request.tokens);
  EXPECT_EQ(back.prompt_tokens, 3);
  EXPECT_EQ(back.choices, 2);
  EXPECT_EQ(back.sampling.seed, request.sampling.seed);
  EXPECT_EQ(back.sampling.top_logprobs, -1);
  EXPECT_EQ(back.sampling.stop_tokens, request.sampling.stop_tokens);
  EXPECT_EQ(back.sampling.logit_bias, request.sampling.logit_bias);
  EXPECT_EQ(back.cache_salt, request.cache_salt);
}

TEST(Wire, TokensSurviveTheRoundTrip) {
  TokenFrame tokens;
  tokens.request = 1;
  tokens.first_index = 12;
  tokens.tokens = {5, 6};
  tokens.logprobs = {{.token = 5, .logprob = -1.5f, .rank = 1, .top = {{5, -1.5f}, {8, -2.0f}}},
                     {.token = 6, .logprob = -0.5f, .rank = 2, .top = {}}};
  tokens.finish = FinishReason::kLength;
  const auto frame = decode_frame(encode_frame(tokens));
  ASSERT_TRUE(frame.ok());
  const auto& back = std::get<TokenFrame>(*frame);
  EXPECT_EQ(back.tokens, tokens.tokens);
  ASSERT_EQ(back.logprobs.size(), 2u);
  EXPECT_EQ(back.logprobs[0].top, tokens.logprobs[0].top);
  EXPECT_EQ(back.finish, FinishReason::kLength);
}

TEST(Wire, StatusSurvivesTheRoundTrip) {
  const ReplicaStatus status{.launch = 1, .running = 2, .waiting = 3, .preemptions = 4, .prefix_queries = 5,
                             .prefix_hits = 6, .kv_usage = 0.7, .steps = 8, .starved_seconds = 0.9,
                             .decode_work = {.steps = 1, .seconds = 0.2, .lanes = 3, .decodes = 4, .decode_keys = 5},
                             .prefill_work = {.steps = 6, .prompt_tokens = 7, .prompt_keys = 8, .prompt_rows = 9}};
  const auto frame = decode_frame(encode_frame(status));
  ASSERT_TRUE(frame.ok());
  const auto& back = std::get<ReplicaStatus>(*frame);
  EXPECT_EQ(back.launch, 1u);
  EXPECT_EQ(back.running, 2u);
  EXPECT_EQ(back.waiting, 3u);
  EXPECT_EQ(back.preemptions, 4u);
  EXPECT_EQ(back.prefix_queries, 5u);
  EXPECT_EQ(back.prefix_hits, 6u);
  EXPECT_EQ(back.kv_usage, 0.7);
  EXPECT_EQ(back.steps, 8u);
  EXPECT_EQ(back.starved_seconds, 0.9);
  EXPECT_EQ(back.decode_work, status.decode_work);
  EXPECT_EQ(back.prefill_work, status.prefill_work);
}

TEST(Wire, AReplicaSaysWhatEachRankHolds) {
  RegisterReplica replica;
  replica.ranks = 2;
  replica.transport = "TCP";
  replica.rank_bytes = {1, 1ull << 40};
  const auto frame = decode_frame(encode_frame(replica));
  ASSERT_TRUE(frame.ok()) << frame.status().message();
  EXPECT_EQ(std::get<RegisterReplica>(*frame).rank_bytes, replica.rank_bytes);
  replica.ranks = 3;
  EXPECT_FALSE(decode_frame(encode_frame(replica)).ok());
}

TEST(Wire, AProbeSaysWhatItMeasured) {
  RegisterReplica probe{.launch = 3, .samples = "[]"};
  const auto frame = decode_frame(encode_frame(probe));
  ASSERT_TRUE(frame.ok()) << frame.status().message();
  EXPECT_EQ(std::get<RegisterReplica>(*frame).samples, "[]");
  probe.samples.assign(kProbeBytesMax + 1, ' ');
  EXPECT_EQ(decode_frame(encode_frame(probe)).status().code(), Code::kCorrupt);
}

TEST(Wire, WhatAgentsSaySurvivesTheRoundTrip) {
  const RegisterAgent agent{.node = "a",
                            .build = "1",
                            .instance = ~uint64_t{0},
                            .address = "10.0.0.1",
                            .network = "10.0.0.0/24",
                            .topology = "gpus: []",
                            .jobs = {{.launch = 5, .replica = 2, .identity = "id"}}};
  const auto registration = decode_frame(encode_frame(agent));
  ASSERT_TRUE(registration.ok()) << registration.status().message();
  const auto& back = std::get<RegisterAgent>(*registration);
  EXPECT_EQ(back.instance, agent.instance);
  EXPECT_EQ(back.network, agent.network);
  EXPECT_EQ(back.topology, agent.topology);
  ASSERT_EQ(back.jobs.size(), 1u);
  EXPECT_EQ(back.jobs[0].replica, 2u);
  EXPECT_EQ(back.jobs[0].identity, "id");

  const AgentStatus sign{.launches = {3, 4}, .memory_free = 1ull << 40, .gpu_memory_free = {5, 6}, .held = {0, 7},
                         .driver_silent_s = 8};
  const auto status = decode_frame(encode_frame(sign));
  ASSERT_TRUE(status.ok()) << status.status().message();
  const auto& life = std::get<AgentStatus>(*status);
  EXPECT_EQ(life.launches, (std::vector<uint64_t>{3, 4}));
  EXPECT_EQ(life.memory_free, 1ull << 40);
  EXPECT_EQ(life.gpu_memory_free, (std::vector<uint64_t>{5, 6}));
  EXPECT_EQ(life.driver_silent_s, 8u);
  EXPECT_EQ(life.held, (std::vector<uint32_t>{0, 7}));
  StartDaemon start;
  start.job.launch = 5;
  start.node = "b";
  start.command = "orted";
  start.share = {.devices = {2, 3}, .gpus = true, .device_bytes = {1ull << 40, 5}};
  const auto daemon = decode_frame(encode_frame(start));
  EXPECT_EQ(std::get<StartDaemon>(*daemon).job.launch, 5u);
  EXPECT_EQ(std::get<StartDaemon>(*daemon).command, "orted");
  EXPECT_EQ(std::get<StartDaemon>(*daemon).share.devices, start.share.devices);
  EXPECT_TRUE(std::get<StartDaemon>(*daemon).share.gpus);
  EXPECT_EQ(std::get<StartDaemon>(*daemon).share.device_bytes, (std::vector<uint64_t>{1ull << 40, 5}));
}

TEST(Wire, ALaunchPlacesEveryRankOnce) {
  Launch launch{.launch = 1, .ranks = 3, .spec = "{}"};
  launch.nodes = {{.node = "a", .address = "10.0.0.1", .ranks = 2}, {.node = "b", .address = "10.0.0.2", .ranks = 1}};
  const auto back = decode_frame(encode_frame(launch));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(std::get<Launch>(*back).nodes[1].address, "10.0.0.2");
  launch.ranks = 4;
  EXPECT_FALSE(decode_frame(encode_frame(launch)).ok());
}

TEST(Wire, AFrameSaysWhoseItIs) {
  Envelope envelope;
  ASSERT_TRUE(decode_frame(encode_frame(Lease{}, {.sender = "agent-a-1", .number = 7}), &envelope).ok());
  EXPECT_EQ(envelope.sender, "agent-a-1");
  EXPECT_EQ(envelope.number, 7u);
  EXPECT_TRUE(decode_frame(encode_frame(Lease{}, {.sender = std::string(kSenderBytesMax, 'a')})).ok());
  EXPECT_EQ(decode_frame(encode_frame(Lease{}, {.sender = std::string(kSenderBytesMax + 1, 'a')})).status().code(),
            Code::kCorrupt);
}

TEST(Wire, NamesTheVersionOfAPeerThatSpeaksAnother) {
  Envelope envelope;
  const auto frame = decode_frame(encode_frame(Lease{}, {.version = kWireVersion - 1}), &envelope);
  EXPECT_EQ(frame.status().code(), Code::kUnsupported);
  EXPECT_EQ(envelope.version, kWireVersion - 1);
}

TEST(Wire, RefusesFramesThatContradictThemselves) {
  GenerationRequest request;
  request.tokens = {1};
  request.prompt_tokens = 2;
  EXPECT_FALSE(decode_frame(encode_frame(request)).ok());
  TokenFrame tokens;
  tokens.tokens = {1, 2};
  tokens.logprobs = {{}};
  EXPECT_FALSE(decode_frame(encode_frame(tokens)).ok());
  EXPECT_FALSE(decode_frame(encode_frame(AgentStatus{.launches = {}, .held = {kNodeDevicesMax}})).ok());
  EXPECT_FALSE(decode_frame(encode_frame(AgentStatus{
                   .launches = {}, .held = std::vector<uint32_t>(kNodeDevicesMax + 1, 0)})).ok());
  EXPECT_FALSE(decode_frame(encode_frame(AgentStatus{
                   .launches = {}, .gpu_memory_free = std::vector<uint64_t>(kNodeDevicesMax + 1, 0)})).ok());
  StartDaemon start;
  start.share.devices = {kNodeDevicesMax};
  EXPECT_FALSE(decode_frame(encode_frame(start)).ok());
  EXPECT_FALSE(decode_frame("").ok());
  EXPECT_FALSE(decode_frame("garbage").ok());
}

}  // namespace
}  // namespace skein
