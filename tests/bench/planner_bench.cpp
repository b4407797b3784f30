// How long planning takes: planner_bench [ROUNDS], from the repository's root. Prints the median and the slowest of
// ROUNDS (5; 1 of what takes longest) for the largest cluster with and without alternatives and costs of constraints,
// for planning again after a lost node, for a larger model, two models and two kinds of GPUs, for clusters in which
// hardly a node is like another, for clusters of the size that planner_exhaustive_test tries everything on, for four
// like nodes, for a refusal, and for the lowest latency on mixed nodes.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "base/check.h"
#include "tests/bench/unlike_clusters.h"
#include "topology/cluster_file.h"
#include "topology/packing.h"
#include "topology/planner.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

void print(const char* what, int rounds, const std::function<void()>& body) {
  std::vector<double> ms;
  for (int round = 0; round < rounds; ++round) {
    const Clock::time_point begin = Clock::now();
    body();
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  std::ranges::sort(ms);
  std::printf("%-64s %10.2f ms, slowest %10.2f ms\n", what, ms[ms.size() / 2], ms.back());
}

Cluster read(const char* path) {
  Result<Cluster> cluster = read_cluster_file(path);
  CHECK(cluster.ok());
  return std::move(*cluster);
}

PlanRequest request_for(const Cluster& cluster, const Calibration& calibration, const Checkpoint& model) {
  ModelDemand demand{.name = "model", .checkpoint = &model};
  demand.level.itl_ms = 30;
  demand.memory = {.gpu = true, .block_tokens = 64, .slots = 256, .step_tokens_max = 8192};
  return {.cluster = &cluster, .calibration = &calibration, .models = {demand}};
}

void bench_large(const Checkpoint& model, const Calibration& calibration, int rounds) {
  const Cluster cluster = read("configs/clusters/fat-tree-1024.yaml");
  PlanRequest request = request_for(cluster, calibration, model);
  request.objective = Objective::kFewestDevices;
  request.models[0].load.request_rate = 20'000;
  print("1,024 x 8, 20,000 requests/s, the plan alone", rounds, [&] {
    ShapeBook book(request, 0, {});
    Packer packer(cluster, book, domains_of(request, {}, {}));
    CHECK(!packer.best({.objective = request.objective, .request_rate = 20'000}).replicas.empty());
  });
  Result<PlacementPlan> plan = plan_placement(request);
  print("... with alternatives and costs of constraints", rounds, [&] { plan = plan_placement(request); });
  CHECK(plan.ok());
  Cluster rest = cluster;
  rest.nodes.erase(rest.nodes.begin() + plan->replicas.front().devices.front().node);
  request.cluster = &rest;
  print("... planned again without a node that is in use", rounds, [&] { CHECK(replan(request, cluster, *plan).ok()); });
  request.cluster = &cluster;
  request.objective = Objective::kGoodput;
  request.models[0].load.request_rate = 0;
  print("1,024 x 8, the most that they can serve", rounds, [&] { CHECK(plan_placement(request).ok()); });
  request.objective = Objective::kLatency;
  print("1,024 x 8, the lowest latency", rounds, [&] { CHECK(plan_placement(request).ok()); });
}

void bench_larger_model(const Checkpoint& model, const Checkpoint& small, const Calibration& calibration, int rounds) {
  const Cluster cluster = read("configs/clusters/fat-tree-1024.yaml");
  PlanRequest request = request_for(cluster, calibration, model);
  request.models[0].level = {.itl_ms = 20};
  print("1,024 x 8, 70B, a token every 20 ms", rounds, [&] { CHECK(plan_placement(request).ok()); });
  request.models[0].level = {.ttft_ms = 200, .itl_ms = 30};
  print("1,024 x 8, 70B, a token every 30 ms, the first in 200 ms", rounds, [&] { CHECK(plan_placement(request).ok()); });

  request.models[0].level = {.ttft_ms = 3};
  print("1,024 x 8, 70B, the first token in 3 ms, refused", rounds, [&] { CHECK(!plan_placement(request).ok()); });

  request = request_for(cluster, calibration, model);
  request.models.push_back(request_for(cluster, calibration, small).models[0]);
  request.models[0].load.request_rate = 3000;
  request.models[1].load.request_rate = 10'000;
  print("1,024 x 8, 70B at 3,000 requests/s and 8B at 10,000", rounds, [&] { CHECK(plan_placement(request).ok()); });
  request.objective = Objective::kLatency;
  print("... at the lowest latencies", rounds, [&] { CHECK(plan_placement(request).ok()); });

  Cluster mixed = cluster;
  const Cluster pair = read("configs/clusters/h200-pair.yaml");
  mixed.kinds.push_back(pair.kinds[0]);
  for (size_t node = 0; node < mixed.nodes.size(); node += 2) {
    for (Device& device : mixed.nodes[node].devices) device.kind = static_cast<int>(mixed.kinds.size()) - 1;
  }
  request = request_for(mixed, calibration, model);
  request.objective = Objective::kFewestDevices;
  request.models[0].load.request_rate = 5000;
  print("512 x 8 H100 and 512 x 8 H200, 70B at 5,000 requests/s", rounds, [&] { CHECK(plan_placement(request).ok()); });
}

// Clusters in which hardly a node is like another.
void bench_unlike(const Checkpoint& model, const Checkpoint& larger, const Calibration& calibration, int rounds) {
  const Cluster like = read("configs/clusters/fat-tree-1024.yaml");
  const auto bench = [&](const char* what, const Cluster& cluster, const Checkpoint& of, Objective objective) {
    PlanRequest request = request_for(cluster, calibration, of);
    request.objective = objective;
    if (objective == Objective::kFewestDevices) request.models[0].load.request_rate = 1000;
    bool fits = false;
    print(what, rounds, [&] { fits = plan_placement(request).ok(); });
    if (!fits) std::printf("  (refused)\n");
  };
  const Cluster free = bench::with_free_memory(like, 40'000, 80'000);
  bench("1,024 x 8, unlike free memory, 8B, the most", free, model, Objective::kGoodput);
  bench("... 8B at 1,000 requests/s", free, model, Objective::kFewestDevices);
  bench("... 8B, the lowest latency", free, model, Objective::kLatency);
  bench("... 70B, the most", free, larger, Objective::kGoodput);
  bench("... 70B, the lowest latency", free, larger, Objective::kLatency);
  bench("... so little that 70B takes two nodes", bench::with_free_memory(like, 19'000, 23'000), larger,
        Objective::kGoodput);
  bench("... so little that 70B does not fit", bench::with_free_memory(like, 10'000, 11'000), larger, Objective::kGoodput);
  PlanRequest level = request_for(free, calibration, larger);
  level.models[0].level = {.ttft_ms = 3};
  print("... 70B, the first token in 3 ms, refused", rounds, [&] { CHECK(!plan_placement(level).ok()); });
  bench("1,024 x 8, unlike rates of NICs, 70B", bench::with_nic_rates(like), larger, Objective::kGoodput);
  bench("... and little memory, so that it takes two nodes",
        bench::with_nic_rates(bench::with_free_memory(like, 20'000, 20'000)), larger, Objective::kGoodput);
  bench("1,024 x 1 to 8, 8B", bench::with_some_devices(like), model, Objective::kGoodput);
  bench("... 70B", bench::with_some_devices(like), larger, Objective::kGoodput);
  const Cluster types = bench::with_node_types(like, 64);
  bench("1,024 x 8 of 64 types, 70B", types, larger, Objective::kGoodput);
  bench("... and with unlike free memory", bench::with_free_memory(types, 40'000, 78'000), larger, Objective::kGoodput);
  rounds = 1;  // what takes longest
  bench("1,024 x 1 to 8, 8B, the lowest latency", bench::with_some_devices(like), model, Objective::kLatency);
  bench("1,024 x 8 of 64 types, 70B, the lowest latency", types, larger, Objective::kLatency);
  bench("1,024 x 1 to 8, unlike free memory, 70B, the lowest latency",
        bench::with_free_memory(bench::with_some_devices(like), 30'000, 78'000), larger, Objective::kLatency);
}

void bench_small(const Checkpoint& model, const Calibration& calibration, int rounds) {
  Cluster cluster = read("configs/clusters/h200-pair.yaml");
  for (Node& node : cluster.nodes) node.devices.resize(2);
  const PlanRequest request = request_for(cluster, calibration, model);
  print("2 x 2, every order and deal of layers", rounds, [&] { CHECK(plan_placement(request).ok()); });
  const Cluster pair = read("configs/clusters/h200-pair.yaml");
  const PlanRequest whole = request_for(pair, calibration, model);
  print("2 x 8", rounds, [&] { CHECK(plan_placement(whole).ok()); });
  Cluster four = pair;
  for (const char* name : {"third", "fourth"}) {
    four.nodes.push_back(pair.nodes[0]);
    four.nodes.back().name = name;
  }
  PlanRequest alike = request_for(four, calibration, model);
  print("4 x 8, alike", rounds, [&] { CHECK(plan_placement(alike).ok()); });
  alike.objective = Objective::kLatency;
  print("... the lowest latency", rounds, [&] { CHECK(plan_placement(alike).ok()); });
  const Cluster mixed = read("configs/clusters/mixed-32.yaml");
  PlanRequest fastest = request_for(mixed, calibration, model);
  fastest.objective = Objective::kLatency;
  fastest.models[0].load.request_rate = 20;
  print("32 mixed nodes, the lowest latency for 20 requests/s", rounds, [&] { CHECK(plan_placement(fastest).ok()); });
}

}  // namespace
}  // namespace skein

int main(int argc, char** argv) {
  int rounds = 5;
  if (argc > 1) std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), rounds);
  if (argc > 2 || rounds < 1) {
    std::fprintf(stderr, "usage: planner_bench [ROUNDS]\n");
    return 2;
  }
  const auto model = skein::Checkpoint::open("configs/models/llama-3.1-8b", skein::LoadFormat::kDummy);
  const auto larger = skein::Checkpoint::open("configs/models/llama-3.1-70b", skein::LoadFormat::kDummy);
  for (const auto* opened : {&model, &larger}) {
    if (opened->ok()) continue;
    std::fprintf(stderr, "planner_bench: %s\n", opened->status().message().c_str());
    return 1;
  }
  const skein::Calibration calibration = skein::shipped_calibration();
  skein::bench_large(**model, calibration, rounds);
  skein::bench_larger_model(**larger, **model, calibration, rounds);
  skein::bench_unlike(**model, **larger, calibration, rounds);
  skein::bench_small(**model, calibration, rounds);
  return 0;
}
