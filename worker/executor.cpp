#include "worker/executor.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>

#include "base/cache_file.h"
#include "base/checked.h"
#include "worker/forward.h"
#include "worker/model_weights.h"
#include "worker/step_buffers.h"
#include "worker/token_message.h"

namespace skein {
namespace {

Result<Format> parse_kv_format(std::string_view name, WeightType weights, const Ops& ops) {
  if (name == "auto") return weights == WeightType::kFloat32 ? Format::kF32 : ops.kv_format;
  if (name == "float32") return Format::kF32;
  if (name == "float16") return Format::kF16;
  if (name == "bfloat16") return Format::kBF16;
  return invalid_argument("unknown kv-cache-dtype \"" + std::string(name) +
                          "\": use auto, float32, bfloat16 or float16");
}

// Rows of a recorded decode step that stands for `rows`: at most a fifth of them padding.
int recorded_rows(int rows) {
  if (rows <= 4) return rows;
  int grain = 2;
  while (rows > 8 * grain) grain *= 2;
  return round_up(rows, grain);
}

// A step of single tokens that all sample, in order: what a recording can stand for.
bool decodes_only(const StepPlan& plan) {
  if (plan.samples.size() != plan.rows.size()) return false;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    if (plan.rows[i].tokens != 1 || plan.samples[i].score != 0) return false;
    if (plan.sample_queries[i] != static_cast<int32_t>(i)) return false;
  }
  return true;
}

// The sampled token behind them has a place, too.
int warm_up_tokens(const ReplicaSpec& spec) {
  return spec.kv_blocks != 0 ? 1 : std::max(1, std::min(spec.step_tokens_max, spec.context_max - 1));
}

// A step whose results the device still owes.
struct StepInFlight {
  uint64_t step = 0;
  int lane = 0;
  uint64_t mark = 0;
  int64_t waited_ns = 0;  // StepResult
  std::vector<SampleRow> samples;
  std::vector<SampledToken> early;  // results of all chunks of samples but the last
  size_t last_chunk = 0;            // results in the host buffer
  SampledToken* host = nullptr;
};

}  // namespace

struct Executor::State {
  const ReplicaSpec spec;
  const ModelDescription model;
  const ShardPlan shard;
  const Ops& ops;
  Device& device;
  const RankLinks links;
  DeviceArena arena;
  std::optional<DeviceArena> page_arena;

  ModelWeights weights;
  StepInputs inputs;
  std::optional<Forward> forward;
  Format kv = Format::kF32;
  int kv_blocks = 0;
  int blocks_per_slot = 0;
  std::vector<int32_t*> block_tables;  // by KV group: (slots, blocks_per_slot)

  std::deque<StepInFlight> flying;
  SampledToken* host_results[kStepsMax] = {};  // (logit rows) each, in turns
  uint64_t launched = 0;
  std::optional<uint64_t> last_mark;  // behind all that was launched
  int recorded_most = 0;              // decode steps of up to so many rows are recorded

  std::map<int32_t, uint64_t> sampled_step;  // by lane: the last step that samples
  uint64_t received_step = 0;                // tokens of steps up to this one have been stored here

  State(const ReplicaSpec& spec, const Checkpoint& checkpoint, const ShardPlan& shard, const Ops& ops, Device& device,
        const RankLinks& links)
      : spec(spec),
        model(checkpoint.description()),
        shard(shard),
        ops(ops),
        device(device),
        links(links),
        arena(ops, device) {}

  ~State() {
    ops.forget_recorded(device);
    for (SampledToken* results : host_results) {
      if (results != nullptr) ops.release_host(device, results);
    }
  }

  bool samples() const { return shard.last_stage() && shard.tp_rank == 0; }
  bool one_stage() const { return shard.pp_size == 1; }
  // Whether launches may return before they have run.
  bool queues() const { return ops.native_stream(device) != nullptr; }

  Status open(const Checkpoint& checkpoint) {
    ASSIGN_OR_RETURN(const WeightType type, parse_weight_type(spec.dtype));
    ASSIGN_OR_RETURN(kv, parse_kv_format(spec.kv_cache_dtype, type, ops));
    ASSIGN_OR_RETURN(weights, load_weights(checkpoint, shard, type, ops, device, &arena));
    ASSIGN_OR_RETURN(const float* cos_sin, arena.upload(rope_table(model.rope, spec.context_max)));
    const int logit_rows = std::min(std::max(spec.slots, 1), ops.logit_rows_max);
    const StepLimits limits{.tokens = spec.step_tokens_max, .slots = spec.slots, .sample_rows = logit_rows};
    RETURN_IF_ERROR(inputs.allocate(limits, spec.context_max, ops, device, &arena));
    forward.emplace(Launcher{ops, device, links.collectives, links.peers, spec.deterministic}, model, shard, weights);
    RETURN_IF_ERROR(forward->allocate(spec.step_tokens_max, logit_rows, cos_sin, &arena));
    for (SampledToken*& results : host_results) {
      ASSIGN_OR_RETURN(void* memory,
                       ops.allocate_host(device, logit_rows * static_cast<int64_t>(sizeof(SampledToken))));
      results = static_cast<SampledToken*>(memory);
    }
    RETURN_IF_ERROR(prepare_products());
    blocks_per_slot = ceil_div(spec.context_max, spec.block_tokens);
    for (size_t group = 0; group < model.kv_groups.size(); ++group) {
      ASSIGN_OR_RETURN(int32_t* table, arena.allocate_array<int32_t>(int64_t{spec.slots} * blocks_per_slot));
      block_tables.push_back(table);
    }
    if (spec.kv_blocks != 0) return allocate_pages(spec.kv_blocks);
    RETURN_IF_ERROR(blocks_that_fit().status());
    return allocate_pages(ceil_div(warm_up_tokens(spec), spec.block_tokens));
  }

  int64_t block_bytes() const {
    return row_bytes(kv, 2 * int64_t{shard.kv_heads.size()} * spec.block_tokens * model.head_dim);
  }

  // What the device has beside all but the pages, down to its share for others.
  Result<int> blocks_that_fit() {
    ASSIGN_OR_RETURN(const DeviceMemory memory, ops.memory(device));
    const auto reserved = static_cast<int64_t>((1 - spec.memory_share) * static_cast<double>(memory.total));
    const int64_t pages = page_arena ? page_arena->bytes() : 0;
    const int64_t bytes = memory.free + pages - reserved - spec.memory_reserve;
    const int64_t of_block = block_bytes() * shard.layers.size();
    const int64_t blocks = links.minimum(std::max<int64_t>(bytes, 0) / of_block);
    const int64_t tokens = blocks * spec.block_tokens;
    if (tokens < spec.context_max) {
      return resource_exhausted("beside the weights there is room for " + std::to_string(tokens) +
                                " tokens of KV cache, less than one request of max-model-len " +
                                std::to_string(spec.context_max) +
                                "; lower max-model-len or raise gpu-memory-utilization");
    }
    return static_cast<int>(std::min<int64_t>(blocks, INT32_MAX / spec.block_tokens));
  }

  Status allocate_pages(int blocks) {
    kv_blocks = blocks;
    page_arena.reset();
    page_arena.emplace(ops, device);
    const int64_t of_layer = kv_blocks * block_bytes();
    ASSIGN_OR_RETURN(void* const memory, page_arena->allocate(shard.layers.size() * of_layer));
    std::vector<KvPages> pages;
    for (int layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
      const int group = model.layers[static_cast<size_t>(layer)].kv_group;
      pages.push_back({.data = static_cast<std::byte*>(memory) + (layer - shard.layers.begin) * of_layer,
                       .format = kv,
                       .blocks = kv_blocks,
                       .kv_heads = shard.kv_heads.size(),
                       .block_tokens = spec.block_tokens,
                       .head_dim = model.head_dim,
                       .block_table = block_tables[static_cast<size_t>(group)],
                       .blocks_per_slot = blocks_per_slot});
    }
    forward->set_pages(std::move(pages));
    return {};
  }

  Status size_pages() {
    if (spec.kv_blocks != 0) return {};
    ASSIGN_OR_RETURN(const int blocks, blocks_that_fit());
    ops.forget_recorded(device);
    recorded_most = 0;
    RETURN_IF_ERROR(allocate_pages(blocks));
    return record_decode_steps();
  }

  void apply_differences(const StepPlan& plan) {
    inputs.admit(plan.admissions, plan.step);
    for (int group = 0; group < static_cast<int>(block_tables.size()); ++group) {
      assign_blocks(plan, group);
      copy_blocks(plan, group);
    }
  }

  void assign_blocks(const StepPlan& plan, int group) {
    std::vector<int32_t> pairs;
    const auto flush = [&] {
      if (pairs.empty()) return;
      ops.scatter(device, {.to = block_tables[static_cast<size_t>(group)],
                           .size = int64_t{spec.slots} * blocks_per_slot,
                           .pairs = inputs.upload_pairs(pairs),
                           .count = static_cast<int>(pairs.size() / 2)});
      pairs.clear();
    };
    for (const BlockAssignment& assignment : plan.assignments) {
      if (assignment.group != group) continue;
      CHECK_LT(assignment.slot, spec.slots);
      CHECK_LE(assignment.first + static_cast<int>(assignment.blocks.size()), blocks_per_slot);
      int32_t index = assignment.slot * blocks_per_slot + assignment.first;
      for (const int32_t block : assignment.blocks) {
        pairs.push_back(index++);
        pairs.push_back(block);
        if (static_cast<int>(pairs.size()) == 2 * inputs.pairs_max()) flush();
      }
    }
    flush();
  }

  void copy_blocks(const StepPlan& plan, int group) {
    std::vector<int32_t> pairs;
    for (const BlockCopy& copy : plan.copies) {
      if (copy.group != group) continue;
      pairs.push_back(copy.source);
      pairs.push_back(copy.destination);
    }
    if (pairs.empty()) return;
    const int32_t* device_pairs = inputs.upload_pairs(pairs);
    for (size_t i = 0; i < forward->pages().size(); ++i) {
      const int layer = shard.layers.begin + static_cast<int>(i);
      if (model.layers[static_cast<size_t>(layer)].kv_group != group) continue;
      ops.copy_blocks(device, {.pages = forward->pages()[i],
                               .pairs = device_pairs,
                               .count = static_cast<int>(pairs.size() / 2)});
    }
  }

  // With several stages, stage 0 needs the tokens that this lane's earlier steps sampled.
  void await_tokens(const StepPlan& plan) {
    if (one_stage()) return;
    const auto last = sampled_step.find(plan.lane);
    if (links.communicator.receives_tokens() && last != sampled_step.end()) {
      while (received_step < last->second) {
        const TokenMessage message = TokenMessage::decode(links.communicator.receive_tokens());
        received_step = message.step;
        inputs.store_received(message.step, message.slots, message.positions, message.tokens);
      }
    }
    if (!plan.samples.empty()) sampled_step[plan.lane] = plan.step;
  }

  // Samples of one chunk. The rank that samples stores the tokens, which penalties count; with one stage all ranks do,
  // and have the next step's input at once.
  void sample(int tokens, int count) {
    forward->sample(inputs, tokens, count);
    if (one_stage()) forward->share_tokens(count);
    if (one_stage() || samples()) inputs.store_sampled(forward->tokens(), count);
  }

  // This stage's part of a step, behind inputs.gather(): what a recording holds.
  void compute(const StepView& step, int samples_count) {
    forward->run_layers(step);
    if (!shard.last_stage() || samples_count == 0) return;
    forward->finish_layers(step.tokens);
    sample(step.tokens, samples_count);
  }

  Status launch_rows(const StepPlan& plan, StepInFlight* flight) {
    const int rows = static_cast<int>(plan.rows.size());
    const bool replays = rows <= recorded_most && decodes_only(plan);
    const int padded = replays ? std::min(recorded_rows(rows), recorded_most) : rows;
    const StepView step = inputs.upload(plan, padded);
    forward->receive(step.tokens);
    if (replays) {
      CHECK(ops.replay(device, static_cast<uint64_t>(padded)));
    } else {
      inputs.gather(step);
    }
    if (queues()) {
      ASSIGN_OR_RETURN(flight->waited_ns, idle_ns());
    }
    if (!replays) {
      compute(step, static_cast<int>(std::min(plan.samples.size(), size_t(forward->logit_rows_max()))));
    }
    forward->send(step.tokens);
    return shard.last_stage() ? collect_samples(plan, step.tokens, flight) : Status();
  }

  // The first chunk of samples is queued; the rest follows, for prompts whose log-probabilities are asked for.
  Status collect_samples(const StepPlan& plan, int tokens, StepInFlight* flight) {
    const size_t capacity = static_cast<size_t>(forward->logit_rows_max());
    for (size_t begin = 0; begin < plan.samples.size(); begin += capacity) {
      const size_t count = std::min(plan.samples.size() - begin, capacity);
      if (begin > 0) {
        RETURN_IF_ERROR(ops.synchronize(device));  // the host buffer is free again
        if (samples()) flight->early.insert(flight->early.end(), flight->host, flight->host + capacity);
        inputs.upload_samples(plan, begin, count);
        sample(tokens, static_cast<int>(count));
      }
      if (!samples()) continue;
      ops.copy_to_host(device, flight->host, forward->results(), static_cast<int64_t>(count * sizeof(SampledToken)));
      flight->last_chunk = count;
    }
    return {};
  }

  // How long ago the device came to the end of all steps before the one that is being launched; 0 while it is at work
  // on them. Asked when the device gets something of that step to do: where it has a queue, behind the first launch or
  // the recording. Launching the rest may take as long as the device works, because a queue that is full is waited for.
  Result<int64_t> idle_ns() {
    if (!last_mark) return 0;
    ASSIGN_OR_RETURN(const bool reached, ops.reached(device, *last_mark));
    if (!reached) return 0;
    return ops.since(device, *last_mark);
  }

  Status launch(const StepPlan& plan) {
    CHECK_LT(flying.size(), size_t{kStepsMax});
    StepInFlight flight{.step = plan.step, .lane = plan.lane, .samples = plan.samples, .early = {},
                        .host = host_results[launched++ % kStepsMax]};
    if (!queues()) {
      ASSIGN_OR_RETURN(flight.waited_ns, idle_ns());
    }
    apply_differences(plan);
    await_tokens(plan);
    if (!plan.rows.empty()) RETURN_IF_ERROR(launch_rows(plan, &flight));
    flight.mark = ops.mark(device);
    last_mark = flight.mark;
    flying.push_back(std::move(flight));
    return {};
  }

  Result<std::optional<StepResult>> finish() {
    CHECK(!flying.empty());
    StepInFlight& oldest = flying.front();
    RETURN_IF_ERROR(links.collectives.status());
    ASSIGN_OR_RETURN(const bool reached, ops.reached(device, oldest.mark));
    if (!reached) return std::optional<StepResult>();
    StepResult result{.step = oldest.step, .waited_ns = oldest.waited_ns, .samples = std::move(oldest.early)};
    result.samples.insert(result.samples.end(), oldest.host, oldest.host + oldest.last_chunk);
    if (samples() && !one_stage() && !oldest.samples.empty()) send_tokens(oldest, result);
    flying.pop_front();
    return std::optional<StepResult>(std::move(result));
  }

  void send_tokens(const StepInFlight& flight, const StepResult& result) {
    TokenMessage message{.step = flight.step, .slots = {}, .positions = {}, .tokens = {}};
    for (size_t i = 0; i < flight.samples.size(); ++i) {
      const SampleRow& row = flight.samples[i];
      message.slots.push_back(row.slot);
      message.positions.push_back(row.position + 1);
      message.tokens.push_back(row.score != 0 ? -1 : result.samples[i].token);
    }
    links.communicator.send_tokens(message.encode());
  }

  // Lets the device find its fastest way for every product, in steps of any size.
  Status prepare_products() {
    std::vector<PreparedProduct> products;
    // 1, 2, 3, 4, 6, 8, 12, ...: powers of two and what lies halfway between.
    const auto next = [](int tokens) {
      if (tokens == 1) return 2;
      return tokens % 3 == 0 ? tokens / 3 * 4 : tokens / 2 * 3;
    };
    for (int tokens = 1; tokens <= spec.step_tokens_max; tokens = next(tokens)) {
      for (const PreparedProduct& product : forward->products(tokens)) products.push_back(product);
    }
    const std::string caches = cache_folder();  // this machine's: a coordinator's may not be here
    const std::string timings = caches.empty() ? "" : caches + "/products.txt";
    return ops.prepare(device, {.products = products.data(),
                                .count = static_cast<int>(products.size()),
                                .cache_path = timings.c_str()});
  }

  Status record_decode_steps() {
    if (!ops.records) return {};
    const int most = forward->logit_rows_max();
    for (int rows = 1; rows <= most; rows = recorded_rows(rows) + 1) {
      const StepView step = inputs.upload({}, std::min(recorded_rows(rows), most));
      ops.record(device, static_cast<uint64_t>(step.rows));
      inputs.gather(step);
      compute(step, step.rows);
      RETURN_IF_ERROR(ops.end_record(device));
    }
    recorded_most = most;
    return ops.synchronize(device);
  }
};

Executor::Executor(std::unique_ptr<State> state) : state_(std::move(state)) {}
Executor::~Executor() = default;

Result<std::unique_ptr<Executor>> Executor::create(const ReplicaSpec& spec, const Checkpoint& checkpoint,
                                                   const ShardPlan& shard, const Ops& ops, Device& device,
                                                   const RankLinks& links) {
  auto state = std::make_unique<State>(spec, checkpoint, shard, ops, device, links);
  RETURN_IF_ERROR(state->open(checkpoint));
  return std::unique_ptr<Executor>(new Executor(std::move(state)));
}

int Executor::kv_blocks() const { return state_->kv_blocks; }
int64_t Executor::device_bytes() const { return state_->arena.bytes() + state_->page_arena->bytes(); }
Status Executor::launch(const StepPlan& plan) { return state_->launch(plan); }
int Executor::in_flight() const { return static_cast<int>(state_->flying.size()); }
Result<std::optional<StepResult>> Executor::finish() { return state_->finish(); }
Status Executor::record_decode_steps() { return state_->record_decode_steps(); }
Status Executor::size_pages() { return state_->size_pages(); }

Result<StepResult> Executor::run(const StepPlan& plan) {
  CHECK_EQ(in_flight(), 0);
  RETURN_IF_ERROR(launch(plan));
  RETURN_IF_ERROR(state_->ops.synchronize(state_->device));
  ASSIGN_OR_RETURN(std::optional<StepResult> result, finish());
  CHECK(result.has_value());
  return std::move(*result);
}

Status serve_plans(Executor& executor, Communicator& communicator, bool answers) {
  std::string bytes;
  const auto answer = [&](const StepResult& result) {
    if (!answers) return;
    bytes.clear();
    encode(result, &bytes);
    communicator.send_result(bytes);
  };
  while (true) {
    // While the device is at work this thread looks for its end and for the next plan in turns; idle, it sleeps.
    while (executor.in_flight() > 0) {
      ASSIGN_OR_RETURN(const std::optional<StepResult> result, executor.finish());
      if (result) answer(*result);
      if (executor.in_flight() < Executor::kStepsMax && communicator.plan_waits()) break;
    }
    ASSIGN_OR_RETURN(const StepPlan plan, decode_step_plan(communicator.receive_plan()));
    if (plan.stop) break;
    RETURN_IF_ERROR(executor.launch(plan));
  }
  while (executor.in_flight() > 0) {
    ASSIGN_OR_RETURN(const std::optional<StepResult> result, executor.finish());
    if (result) answer(*result);
  }
  answer({.step = kFarewellStep, .samples = {}});
  return {};
}

StepPlan warm_up_plan(const ReplicaSpec& spec, int kv_groups) {
  const int tokens = warm_up_tokens(spec);
  std::vector<int32_t> blocks(static_cast<size_t>(ceil_div(tokens, spec.block_tokens)));
  std::iota(blocks.begin(), blocks.end(), 0);
  StepPlan plan;
  SlotAdmission admission;
  admission.tokens.assign(static_cast<size_t>(tokens), 0);
  admission.sampling.temperature = 0;
  admission.sampling.prompt_tokens = tokens;
  plan.admissions.push_back(std::move(admission));
  for (int group = 0; group < kv_groups; ++group) {
    plan.assignments.push_back({.group = group, .slot = 0, .first = 0, .blocks = blocks});
  }
  plan.rows.push_back({.slot = 0, .first_position = 0, .tokens = tokens});
  plan.sample_queries = {tokens - 1};
  plan.samples = {{.slot = 0, .position = tokens - 1}};
  return plan;
}

}  // namespace skein
