// Where a decode step's time goes: gpu_step_bench FOLDER BATCH CONTEXT [BATCH CONTEXT]... [--chunk TOKENS] [--ranks N]
// FOLDER has a config.json; weights are random. Times recorded steps as a replica runs them, first with the first kind
// of launch alone, then with the first two, and so on: a line is what a kind adds, less what it hides behind others,
// and the lines add up to the step. With --ranks, tensor-parallel on so many GPUs, seen from the first. With --chunk,
// steps also take so many tokens of prompts of CONTEXT tokens, and only whole steps are timed.

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "base/check.h"
#include "tests/bench/gpu/bench.h"
#include "tests/bench/gpu/step_parts.h"
#include "tests/gpu/rank_group.h"
#include "worker/executor.h"

namespace skein::bench {
namespace {

struct Bench {
  std::string model;
  int batch;
  int context;
  int chunk;  // tokens of prompts in each step
  int ranks;
  std::unique_ptr<test::RankGroup> group = nullptr;  // of several ranks

  static constexpr int kWarmUp = 20;
  int steps() const { return chunk == 0 ? 120 : 40; }
  int keys() const { return context + steps() / 2; }
  int prompts() const { return (chunk + context - 1) / context; }
  int slots() const { return batch + prompts(); }

  ReplicaSpec spec() const {
    ReplicaSpec spec;
    spec.model = model;
    spec.load_format = "dummy";
    spec.device = "cuda";
    spec.slots = slots();
    spec.step_tokens_max = std::max(batch + chunk, 2048);
    spec.context_max = context + 256;
    spec.block_tokens = 64;
    spec.kv_blocks = slots() * ((spec.context_max + 63) / 64);
    return spec;
  }

  StepPlan first_plan() const {
    StepPlan plan;
    const int blocks = (context + 256 + 63) / 64;
    for (int slot = 0; slot < slots(); ++slot) {
      SlotAdmission admission{.slot = slot, .tokens = {}, .sampling = {}};
      admission.tokens.assign(static_cast<size_t>(context), 1 + slot);
      admission.sampling.temperature = 0;
      admission.sampling.top_logprobs = -1;
      admission.sampling.prompt_tokens = context;
      plan.admissions.push_back(admission);
      BlockAssignment assignment{.group = 0, .slot = slot, .first = 0, .blocks = {}};
      for (int i = 0; i < blocks; ++i) assignment.blocks.push_back(slot * blocks + i);
      plan.assignments.push_back(assignment);
    }
    fill(&plan, 0);
    return plan;
  }

  // The n-th token after the context.
  void fill(StepPlan* plan, int n) const {
    for (int slot = 0; slot < batch; ++slot) {
      const int position = context - 1 + n;
      plan->rows.push_back({.slot = slot, .first_position = position, .tokens = 1});
      plan->sample_queries.push_back(slot);
      plan->samples.push_back({.slot = slot, .position = position, .score = 0});
    }
    for (int i = 0; i < prompts(); ++i) {
      plan->rows.push_back({.slot = batch + i, .first_position = 0, .tokens = std::min(context, chunk - i * context)});
    }
  }

  // Without NCCL: the largest sum, that of a prompt's embedding, fits into the inboxes.
  std::unique_ptr<test::RankGroup> make_group(const ModelDescription& m) const {
    const int64_t row = row_bytes(Format::kF32, m.hidden);
    return std::make_unique<test::RankGroup>(
        ranks, test::RankGroup::Setup{.rows = spec().step_tokens_max, .row_bytes = row,
                                      .shared_bytes = row_bytes(Format::kF32, int64_t{slots()} * m.vocabulary)});
  }

  void run_rank(const Checkpoint& checkpoint, int rank, Device& device, const PeerGroup* peers) {
    const auto shards = plan_shards(checkpoint.description(), ranks, 1);
    CHECK(shards.ok());
    const CommunicatorConfig place{.tp_size = ranks, .tp_rank = rank};
    const auto communicator = Communicator::create(
        place, {.broadcast = [&](std::string bytes) { return group ? group->all_gather(rank, bytes)[0] : bytes; },
                .barrier = [&] { if (group) group->meet(); }});
    CHECK(communicator.ok());
    SharedMemoryCollectives collectives(place, **communicator);
    const RankLinks links{.communicator = **communicator, .collectives = collectives,
                          .minimum = [](int64_t value) { return value; }, .peers = peers};
    const auto executor =
        Executor::create(spec(), checkpoint, (*shards)[static_cast<size_t>(rank)], partial_ops(), device, links);
    if (!executor.ok()) std::fprintf(stderr, "%s\n", executor.status().message().c_str());
    CHECK(executor.ok());
    if (group) group->meet();
    CHECK((*executor)->run(first_plan()).ok());
    time_steps(**executor, rank);
    if (group) group->meet();
  }

  // All of the step first: it writes every token that partial ones read.
  void time_steps(Executor& executor, int rank) {
    const double whole = step_us(executor);
    const std::vector<StepPart> parts = chunk == 0 ? step_parts() : std::vector<StepPart>();
    std::vector<double> us = {0};  // of the step with the first kinds of launches
    for (size_t kept = 1; kept < parts.size(); ++kept) {
      if (group) group->meet();
      if (rank == 0) keep_parts(static_cast<int>(kept));
      if (group) group->meet();
      us.push_back(step_us(executor));
    }
    us.push_back(whole);
    if (rank == 0) print(parts, us);
    keep_parts(std::numeric_limits<int>::max());
  }

  double step_us(Executor& executor) const {
    CHECK(executor.record_decode_steps().ok());
    auto start = std::chrono::steady_clock::now();
    for (int step = 1; step <= steps(); ++step) {
      if (step == kWarmUp) start = std::chrono::steady_clock::now();
      StepPlan plan;
      fill(&plan, step);
      CHECK(executor.launch(plan).ok());
      while (executor.in_flight() > 1) CHECK(executor.finish().ok());
    }
    while (executor.in_flight() > 0) CHECK(executor.finish().ok());
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() /
           (steps() - kWarmUp + 1);
  }

  void print(const std::vector<StepPart>& parts, const std::vector<double>& us) const {
    for (size_t i = 0; i < parts.size(); ++i) {
      report({.name = "  " + std::to_string(parts[i].launches) + " x " + parts[i].name,
              .us = us[i + 1] - us[i],
              .bytes = parts[i].bytes,
              .flops = parts[i].flops});
    }
    const auto checkpoint = Checkpoint::open(model, LoadFormat::kDummy);
    const ModelDescription& m = (*checkpoint)->description();
    const double weights = static_cast<double>(m.parameters() - int64_t{m.vocabulary} * m.hidden);
    const double kv = 2.0 * m.kv_heads * m.head_dim * 2 * static_cast<double>(m.layers.size());
    const double attention = 4.0 * m.q_heads * m.head_dim * keys() * static_cast<double>(m.layers.size());
    report({.name = "step batch " + std::to_string(batch) + " context " + std::to_string(context) +
                    (ranks == 1 ? "" : " ranks " + std::to_string(ranks)) +
                    (chunk == 0 ? "" : " chunk " + std::to_string(chunk)),
            .us = us.back(),
            .bytes = (2 * weights + kv * batch * keys()) / ranks,
            .flops = ((batch + chunk) * 2 * weights + batch * attention) / ranks});
  }

  void run() {
    std::printf("%s, batch %d, context %d, chunk %d, ranks %d\n", model.c_str(), batch, context, chunk, ranks);
    set_context(keys());
    const auto checkpoint = Checkpoint::open(model, LoadFormat::kDummy);
    CHECK(checkpoint.ok());
    if (ranks == 1) return run_rank(**checkpoint, 0, gpu(), nullptr);
    group = make_group((*checkpoint)->description());
    group->run([&](const test::RankGroup::Rank& rank) {
      run_rank(**checkpoint, rank.index, rank.device, &rank.group);
    });
    group.reset();
  }
};

int number(const char* text) {
  int value = 0;
  std::from_chars(text, text + std::strlen(text), value);
  return value;
}

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) {
  using namespace skein::bench;
  if (argc < 4) {
    std::fprintf(stderr, "usage: gpu_step_bench FOLDER BATCH CONTEXT [BATCH CONTEXT]... [--chunk TOKENS] [--ranks N] "
                         "[--commit TEXT]\n");
    return 2;
  }
  int chunk = 0;
  int ranks = 1;
  for (int i = 2; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--chunk") == 0) chunk = number(argv[i + 1]);
    if (std::strcmp(argv[i], "--ranks") == 0) ranks = number(argv[i + 1]);
  }
  if (ranks < 1 || (ranks > 1 && !skein::test::RankGroup::there(ranks))) {
    std::fprintf(stderr, "gpu_step_bench: there are no %d GPUs that reach each other's memory\n", ranks);
    return 2;
  }
  if (const int status = open_bench(argc, argv)) return status;
  for (int i = 2; i + 1 < argc && argv[i][0] != '-'; i += 2) {
    Bench{argv[1], number(argv[i]), number(argv[i + 1]), chunk, ranks}.run();
  }
  return 0;
}
