// Where a decode step's time goes: gpu_step_bench FOLDER BATCH CONTEXT [BATCH CONTEXT]... [--chunk TOKENS]
// FOLDER has a config.json; weights are random. Prints the time of each operation on its own (launched one by one, so
// that nothing overlaps), then of whole recorded steps as a replica runs them, and the step's floor. With --chunk,
// steps also take so many tokens of prompts of CONTEXT tokens, and only whole steps are timed.

#include <cuda_runtime.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "base/check.h"
#include "tests/bench/gpu/bench.h"
#include "worker/executor.h"

namespace skein::bench {
namespace {

struct Span {
  const char* name;
  cudaEvent_t begin, end;
};
std::vector<Span> spans;

template <typename Body>
void timed(Device& device, const char* name, Body body) {
  const auto stream = static_cast<cudaStream_t>(cuda_ops().native_stream(device));
  Span span{.name = name, .begin = nullptr, .end = nullptr};
  CHECK_EQ(static_cast<int>(cudaEventCreate(&span.begin)), 0);
  CHECK_EQ(static_cast<int>(cudaEventCreate(&span.end)), 0);
  cudaEventRecord(span.begin, stream);
  body();
  cudaEventRecord(span.end, stream);
  spans.push_back(span);
}

// The GPU's table with a clock around each operation.
Ops timed_ops() {
  Ops ops = cuda_ops();
  ops.records = false;
  ops.gather = [](Device& d, const GatherArgs& a) { timed(d, "gather", [&] { cuda_ops().gather(d, a); }); };
  ops.embed = [](Device& d, const EmbedArgs& a) { timed(d, "embed", [&] { cuda_ops().embed(d, a); }); };
  ops.add_norm = [](Device& d, const AddNormArgs& a) { timed(d, "add_norm", [&] { cuda_ops().add_norm(d, a); }); };
  ops.linear = [](Device& d, const LinearArgs& a) {
    static std::map<std::pair<int64_t, int64_t>, std::string> names;
    std::string& name = names[{a.weight.rows, a.weight.columns}];
    if (name.empty()) name = "linear " + std::to_string(a.weight.rows) + "x" + std::to_string(a.weight.columns);
    timed(d, name.c_str(), [&] { cuda_ops().linear(d, a); });
  };
  ops.gated_linear = [](Device& d, const GatedLinearArgs& a) {
    timed(d, "gated_linear", [&] { cuda_ops().gated_linear(d, a); });
  };
  ops.attention = [](Device& d, const AttentionArgs& a) { timed(d, "attention", [&] { cuda_ops().attention(d, a); }); };
  ops.gather_rows = [](Device& d, const GatherRowsArgs& a) {
    timed(d, "gather_rows", [&] { cuda_ops().gather_rows(d, a); });
  };
  ops.sample = [](Device& d, const SampleArgs& a) { timed(d, "sample", [&] { cuda_ops().sample(d, a); }); };
  ops.store_tokens = [](Device& d, const StoreTokensArgs& a) {
    timed(d, "store_tokens", [&] { cuda_ops().store_tokens(d, a); });
  };
  return ops;
}

struct Bench {
  std::string model;
  int batch;
  int context;
  int chunk = 0;  // tokens of prompts in each step

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

  template <typename Body>
  void with_executor(const Ops& ops, Body body) const {
    const auto checkpoint = Checkpoint::open(model, LoadFormat::kDummy);
    CHECK(checkpoint.ok());
    const auto shards = plan_shards((*checkpoint)->description(), 1, 1);
    CHECK(shards.ok());
    const auto communicator =
        Communicator::create({}, {.broadcast = [](std::string bytes) { return bytes; }, .barrier = [] {}});
    CHECK(communicator.ok());
    SharedMemoryCollectives collectives({}, **communicator);
    const auto executor =
        Executor::create(spec(), **checkpoint, (*shards)[0], ops, gpu(),
                         {.communicator = **communicator, .collectives = collectives,
                          .minimum = [](int64_t value) { return value; }});
    if (!executor.ok()) std::fprintf(stderr, "%s\n", executor.status().message().c_str());
    CHECK(executor.ok());
    CHECK((*executor)->run(first_plan()).ok());
    body(**executor);
  }

  void operations() const {
    constexpr int kSteps = 5;
    with_executor(timed_ops(), [&](Executor& executor) {
      std::map<std::string, std::pair<int, double>> totals;
      for (int step = 1; step <= kSteps; ++step) {
        spans.clear();
        StepPlan plan;
        fill(&plan, step);
        CHECK(executor.run(plan).ok());
        for (const Span& span : spans) {
          float ms = 0;
          cudaEventElapsedTime(&ms, span.begin, span.end);
          cudaEventDestroy(span.begin);
          cudaEventDestroy(span.end);
          if (step == 1) continue;
          auto& [count, us] = totals[span.name];
          ++count;
          us += ms * 1e3;
        }
      }
      double sum = 0;
      for (const auto& [name, total] : totals) {
        const double us = total.second / (kSteps - 1);
        sum += us;
        std::printf("  %-24s %4d x %8.2f us = %9.1f us\n", name.c_str(), total.first / (kSteps - 1),
                    total.second / total.first, us);
      }
      std::printf("  %-24s %26.1f us\n", "sum, each on its own", sum);
    });
  }

  double whole_steps() const {
    const int steps = chunk == 0 ? 200 : 40;
    double us = 0;
    with_executor(cuda_ops(), [&](Executor& executor) {
      CHECK(executor.record_decode_steps().ok());
      auto start = std::chrono::steady_clock::now();
      for (int step = 1; step <= steps; ++step) {
        if (step == 20) start = std::chrono::steady_clock::now();
        StepPlan plan;
        fill(&plan, step);
        CHECK(executor.launch(plan).ok());
        while (executor.in_flight() > 1) CHECK(executor.finish().ok());
      }
      while (executor.in_flight() > 0) CHECK(executor.finish().ok());
      us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() /
           (steps - 19);
    });
    return us;
  }

  void run() const {
    std::printf("%s, batch %d, context %d, chunk %d\n", model.c_str(), batch, context, chunk);
    if (chunk == 0) operations();
    const auto checkpoint = Checkpoint::open(model, LoadFormat::kDummy);
    const ModelDescription& m = (*checkpoint)->description();
    const double weights = static_cast<double>(m.parameters() - int64_t{m.vocabulary} * m.hidden);
    const double kv = 2.0 * m.kv_heads * m.head_dim * 2 * static_cast<double>(m.layers.size());
    const double attention = 4.0 * m.q_heads * m.head_dim * (context + 100) * static_cast<double>(m.layers.size());
    const double tokens = batch + chunk;
    report({.name = "step batch " + std::to_string(batch) + " context " + std::to_string(context) +
                    (chunk == 0 ? "" : " chunk " + std::to_string(chunk)),
            .us = whole_steps(),
            .bytes = 2 * weights + kv * batch * (context + 100),
            .flops = tokens * 2 * weights + batch * attention});
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
  if (argc < 4) {
    std::fprintf(stderr, "usage: gpu_step_bench FOLDER BATCH CONTEXT [BATCH CONTEXT]... [--chunk TOKENS] [--commit TEXT]\n");
    return 2;
  }
  if (const int status = skein::bench::open_bench(argc, argv)) return status;
  int chunk = 0;
  for (int i = 2; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--chunk") == 0) chunk = skein::bench::number(argv[i + 1]);
  }
  for (int i = 2; i + 1 < argc && argv[i][0] != '-'; i += 2) {
    skein::bench::Bench{argv[1], skein::bench::number(argv[i]), skein::bench::number(argv[i + 1]), chunk}.run();
  }
  return 0;
}
