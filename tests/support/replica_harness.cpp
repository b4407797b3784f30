#include "tests/support/replica_harness.h"

#include <algorithm>
#include <barrier>
#include <cstring>
#include <thread>

#include "comm/communicator.h"
#include "model/shard.h"
#include "tests/support/staged_collectives.h"
#include "worker/executor.h"

namespace skein::testing {

struct ReplicaHarness::State {
  ReplicaSpec spec;
  const Ops* ops = nullptr;
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<ShardPlan> shards;
  std::unique_ptr<Batcher> batcher;
  Communicator* leader = nullptr;
  int kv_blocks = 0;
  std::string segment;
  std::unique_ptr<std::barrier<>> meet;
  std::unique_ptr<std::barrier<>> ranks_meet;
  std::vector<std::string> gathered;  // by rank
  std::vector<int64_t> device_bytes;  // by rank
  std::vector<std::thread> ranks;
  uint64_t next_id = 1;

  void run_rank(size_t rank) {
    const ShardPlan& shard = shards[rank];
    const CommunicatorConfig place{.tp_size = shard.tp_size, .pp_size = shard.pp_size, .tp_rank = shard.tp_rank,
                                   .pp_rank = shard.pp_rank};
    auto communicator = Communicator::create(
        place,
        {.broadcast =
             [&](std::string bytes) {
               if (rank == 0) segment = std::move(bytes);
               meet->arrive_and_wait();
               return segment;
             },
         .barrier = [&] { meet->arrive_and_wait(); }});
    CHECK(communicator.ok());
    // Stages share GPUs.
    auto device = ops->open({.index = shard.tp_rank, .threads = spec.threads, .deterministic = spec.deterministic});
    CHECK(device.ok());
    const std::unique_ptr<Collectives> collectives =
        ops->records ? std::make_unique<StagedCollectives>(place, **communicator, *ops, **device)
                     : std::make_unique<SharedMemoryCollectives>(place, **communicator);
    const auto minimum = [&](int64_t value) {
      for (const std::string& bytes : all_gather(rank, {reinterpret_cast<const char*>(&value), sizeof value})) {
        int64_t other = 0;
        std::memcpy(&other, bytes.data(), sizeof other);
        value = std::min(value, other);
      }
      return value;
    };
    const RankLinks links{.communicator = **communicator, .collectives = *collectives, .minimum = minimum,
                          .peers = join_peers(shard, **device)};
    auto executor = Executor::create(spec, *checkpoint, shard, *ops, **device, links);
    if (!executor.ok()) std::fprintf(stderr, "%s\n", executor.status().message().c_str());
    CHECK(executor.ok());
    ranks_meet->arrive_and_wait();
    if (ops->records) {
      CHECK((*executor)->run(warm_up_plan(spec, static_cast<int>(checkpoint->description().kv_groups.size()))).ok());
    }
    CHECK((*executor)->record_decode_steps().ok());
    CHECK((*executor)->size_pages().ok());
    device_bytes[rank] = (*executor)->device_bytes();
    if (rank == 0) leader = communicator->get();
    if (rank == 0) kv_blocks = (*executor)->kv_blocks();
    meet->arrive_and_wait();
    const bool answers = shard.last_stage() && shard.tp_rank == 0;
    CHECK(serve_plans(**executor, **communicator, answers).ok());
    meet->arrive_and_wait();  // the leader's segment stays until everyone has left
  }

  // What each rank says, by rank.
  std::vector<std::string> all_gather(size_t rank, const std::string& bytes) {
    gathered[rank] = bytes;
    ranks_meet->arrive_and_wait();
    std::vector<std::string> all = gathered;
    ranks_meet->arrive_and_wait();
    return all;
  }

  // GPUs do without NCCL here: sums must fit into the peers' memory, in one stage. Deterministic ones have as little of
  // it as there can be, so that sums take several launches.
  const PeerGroup* join_peers(const ShardPlan& shard, Device& device) {
    if (shard.tp_size == 1 || ops->native_stream(device) == nullptr) return nullptr;
    CHECK_EQ(shard.pp_size, 1);
    const ModelDescription& model = checkpoint->description();
    auto group = ops->join_peers(
        device, {.rank = shard.tp_rank, .size = shard.tp_size,
                 .rows = spec.deterministic ? 1 : 2 * spec.step_tokens_max,
                 .row_bytes = row_bytes(ops->stream_format, model.hidden),
                 .shared_bytes = row_bytes(Format::kF32, int64_t{spec.slots} * model.vocabulary),
                 .all_gather = [&](const std::string& bytes) {
                   return all_gather(static_cast<size_t>(shard.tp_rank), bytes);
                 }});
    CHECK(group.ok() && *group != nullptr);
    return *group;
  }

  void send(const StepPlan& plan) {
    std::string bytes;
    encode(plan, &bytes);
    leader->send_plan(bytes);
  }
};

ReplicaHarness::ReplicaHarness(const ReplicaSpec& spec, const std::string& model, const Ops& ops)
    : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.spec = spec;
  state.spec.model = model;
  state.ops = &ops;
  const bool dummy = spec.load_format == "dummy";
  auto checkpoint = Checkpoint::open(model, dummy ? LoadFormat::kDummy : LoadFormat::kAuto);
  if (!checkpoint.ok()) std::fprintf(stderr, "%s\n", checkpoint.status().message().c_str());
  CHECK(checkpoint.ok());
  state.checkpoint = std::move(*checkpoint);
  auto shards = plan_shards(state.checkpoint->description(), spec);
  CHECK(shards.ok());
  state.shards = std::move(*shards);
  state.device_bytes.resize(state.shards.size());
  state.meet = std::make_unique<std::barrier<>>(spec.ranks() + 1);
  state.ranks_meet = std::make_unique<std::barrier<>>(spec.ranks());
  state.gathered.resize(static_cast<size_t>(spec.ranks()));
  // Three meetings of the ranks alone and the harness: broadcast, barrier, ready.
  for (size_t rank = 0; rank < state.shards.size(); ++rank) {
    state.ranks.emplace_back([this, rank] { state_->run_rank(rank); });
  }
  for (int i = 0; i < 3; ++i) state.meet->arrive_and_wait();
  auto cache = std::make_unique<KvCache>(KvCacheConfig{
      .groups = std::vector<KvGroupConfig>(state.checkpoint->description().kv_groups.size(),
                                           {.blocks = state.kv_blocks, .block_tokens = spec.block_tokens}),
      .prefix_caching = spec.prefix_caching,
      .key = {},
      .model = "harness"});
  const int lanes = spec.pipeline_parallel_size;
  state.batcher = std::make_unique<Batcher>(BatcherConfig{.slots = spec.slots,
                                                          .step_tokens_max = spec.step_tokens_max,
                                                          .sequence_tokens_max = spec.context_max,
                                                          .vocabulary = state.checkpoint->description().vocabulary,
                                                          .lanes = lanes,
                                                          .lane_steps_max = lanes == 1 ? 2 : 1,
                                                          .waiting_max = spec.waiting_max},
                                            std::move(cache));
}

ReplicaHarness::~ReplicaHarness() {
  StepPlan stop;
  stop.stop = true;
  state_->send(stop);
  state_->meet->arrive_and_wait();
  for (std::thread& rank : state_->ranks) rank.join();
}

std::vector<std::vector<ReplicaHarness::Answer>> ReplicaHarness::run(const std::vector<GenerationRequest>& requests) {
  Batcher& batcher = *state_->batcher;
  const uint64_t first_id = state_->next_id;
  std::vector<std::vector<Answer>> answers;
  size_t open = 0;
  for (GenerationRequest request : requests) {
    request.id = state_->next_id++;
    if (request.prompt_tokens == 0) request.prompt_tokens = static_cast<int32_t>(request.tokens.size());
    answers.emplace_back(static_cast<size_t>(request.choices));
    const Status status = batcher.submit(request);
    if (status.ok()) {
      open += static_cast<size_t>(request.choices);
    } else {
      for (Answer& answer : answers.back()) answer.error = status.message();
    }
  }
  const auto take_frames = [&] {
    for (TokenFrame& frame : batcher.take_frames()) {
      Answer& answer = answers[frame.request - first_id][static_cast<size_t>(frame.choice)];
      answer.tokens.insert(answer.tokens.end(), frame.tokens.begin(), frame.tokens.end());
      std::ranges::move(frame.logprobs, std::back_inserter(answer.logprobs));
      std::ranges::move(frame.prompt_logprobs, std::back_inserter(answer.prompt_logprobs));
      answer.cached_tokens = std::max(answer.cached_tokens, frame.cached_tokens);
      answer.finish = frame.finish;
      answer.error = frame.error;
      if (frame.finish != FinishReason::kNone) --open;
    }
  };
  take_frames();  // of requests that ended at once
  while (open > 0) {
    while (const std::optional<StepPlan> plan = batcher.plan()) state_->send(*plan);
    CHECK_GT(batcher.steps_in_flight(), 0);
    const Result<StepResult> result = decode_step_result(state_->leader->receive_result());
    CHECK(result.ok());
    CHECK(batcher.complete(*result).ok());
    take_frames();
  }
  while (!batcher.idle()) {  // steps that were planned before the last token was known
    while (const std::optional<StepPlan> plan = batcher.plan()) state_->send(*plan);
    const Result<StepResult> result = decode_step_result(state_->leader->receive_result());
    CHECK(batcher.complete(*result).ok());
  }
  return answers;
}

std::vector<int64_t> ReplicaHarness::device_bytes() const { return state_->device_bytes; }
const ModelDescription& ReplicaHarness::model() const { return state_->checkpoint->description(); }
Batcher& ReplicaHarness::batcher() { return *state_->batcher; }

ReplicaSpec small_spec(int tensor_parallel_size, int pipeline_parallel_size) {
  ReplicaSpec spec;
  spec.tensor_parallel_size = tensor_parallel_size;
  spec.pipeline_parallel_size = pipeline_parallel_size;
  spec.context_max = 1100;
  spec.slots = 16;
  spec.step_tokens_max = 256;
  spec.block_tokens = 16;
  spec.kv_blocks = 400;
  spec.spin = false;
  return spec;
}

}  // namespace skein::testing
