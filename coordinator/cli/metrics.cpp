#include "coordinator/cli/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <optional>
#include <set>

#include "base/clock.h"

namespace skein {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

// vLLM's buckets, in seconds and tokens.
const Histogram::BucketBoundaries kTtftBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                                  1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
const Histogram::BucketBoundaries kInterTokenBuckets = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                                        0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0};
const Histogram::BucketBoundaries kRequestBuckets = {0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
                                                     40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
const Histogram::BucketBoundaries kTokenBuckets = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000,
                                                   50000, 100000};

}  // namespace

struct ServerMetrics::State {
  prometheus::Registry registry;
  const Labels model;

  explicit State(const std::string& model_name) : model{{"model_name", model_name}} {}

  Counter& counter(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(model);
  }
  Family<Counter>& counters(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Family<Gauge>& gauges(const std::string& name, const std::string& help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  Histogram& histogram(const std::string& name, const std::string& help, const Histogram::BucketBoundaries& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(model, buckets);
  }
  Labels labels(const std::string& key, const std::string& value) const {
    Labels all = model;
    all[key] = value;
    return all;
  }
  Labels engine(uint32_t replica) const { return labels("engine", std::to_string(replica)); }

  Histogram& ttft = histogram("vllm:time_to_first_token_seconds", "From a request's arrival to its first token.",
                              kTtftBuckets);
  Histogram& inter_token = histogram("vllm:inter_token_latency_seconds", "Between a choice's tokens.",
                                     kInterTokenBuckets);
  Histogram& e2e = histogram("vllm:e2e_request_latency_seconds", "From a request's arrival to its last token.",
                             kRequestBuckets);
  Histogram& prompt_size = histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", kTokenBuckets);
  Histogram& generation_size = histogram("vllm:request_generation_tokens", "Generated tokens of a request.",
                                         kTokenBuckets);
  Counter& prompt_tokens = counter("vllm:prompt_tokens_total", "Prompt tokens processed.");
  Counter& generation_tokens = counter("vllm:generation_tokens_total", "Tokens generated.");
  Family<Counter>& success = counters("vllm:request_success_total", "Choices finished, by reason.");
  Family<Counter>& requests = counters("skein_requests_total", "Generation requests answered, by HTTP status.");

  Family<Gauge>& running = gauges("vllm:num_requests_running", "Sequences that a replica runs.");
  Family<Gauge>& waiting = gauges("vllm:num_requests_waiting", "Sequences that wait in a replica.");
  Family<Gauge>& kv_usage = gauges("vllm:kv_cache_usage_perc", "Share of KV blocks in use; 1 is all.");
  Family<Counter>& preemptions = counters("vllm:num_preemptions_total", "Sequences put back for want of KV blocks.");
  Family<Counter>& prefix_queries = counters("vllm:prefix_cache_queries_total", "Prompt tokens looked up.");
  Family<Counter>& prefix_hits = counters("vllm:prefix_cache_hits_total", "Prompt tokens found.");

  Family<Gauge>& replica_up = gauges("skein_replica_ready", "1: the replica serves.");
  Family<Gauge>& replica_ranks = gauges("skein_replica_ranks", "Ranks of a replica.");
  Family<Gauge>& load_seconds = gauges("skein_replica_load_seconds", "What the last launch took to be ready.");
  Family<Counter>& launches = counters("skein_replica_launches_total", "Starts of a replica.");
  Family<Counter>& losses = counters("skein_replica_losses_total", "Replicas lost after they were ready.");
  Family<Counter>& steps = counters("skein_replica_steps_total", "Steps that a replica ran.");
  Family<Counter>& starved = counters("skein_replica_starved_seconds_total",
                                      "Time in which a replica's device waited for a step although sequences ran.");
  Family<Gauge>& predicted = gauges("skein_plan_predicted_over_measured",
                                    "Time of steps as the plan has it over what they took, of the last minute in which "
                                    "there were some.");
  Family<Gauge>& rank_memory = gauges("skein_rank_memory_bytes", "What a rank holds, as planned and as taken.");

  Family<Gauge>& node_up = gauges("skein_node_up", "1: the node's agent is here.");
  Family<Gauge>& node_memory = gauges("skein_node_memory_bytes", "Memory of a node's host.");
  Family<Gauge>& node_memory_free = gauges("skein_node_memory_free_bytes", "What is free of it.");
  Family<Gauge>& node_devices = gauges("skein_node_devices", "GPUs of a node; of one without, its cores.");
  Family<Gauge>& node_held = gauges("skein_node_devices_held", "Devices of a node on which ranks are.");
  Family<Gauge>& gpu_memory_free = gauges("skein_gpu_memory_free_bytes", "What is free of a GPU's memory.");
  Family<Gauge>& driver_silent = gauges("skein_node_driver_silent_seconds",
                                        "For how long a node's GPU driver has not answered; 0: it answers.");
  Gauge& in_flight = gauges("skein_requests_in_flight", "Requests that the server holds.").Add(model);
  Gauge& connections = gauges("skein_http_connections", "Open HTTP connections.").Add(model);
  Family<Counter>& refused = counters("skein_http_refused_total", "Connections and requests refused by the transport.");

  std::set<std::string> nodes_seen;
  std::vector<std::pair<Family<Gauge>*, Gauge*>> of_nodes;  // that are here

  void set(Family<Gauge>& family, const Labels& labels, double value) {
    of_nodes.emplace_back(&family, &family.Add(labels));
    of_nodes.back().second->Set(value);
  }

  // Of a node that has gone, that it has gone is all that is shown.
  void show(const NodeTable& nodes) {
    for (const auto& [family, gauge] : of_nodes) family->Remove(gauge);
    of_nodes.clear();
    for (const std::string& name : nodes_seen) node_up.Add(labels("node", name)).Set(0);
    for (const auto& [name, node] : nodes.all()) show(name, node);
  }

  void show(const std::string& name, const NodeTable::Node& node) {
    const Labels of_node = labels("node", name);
    nodes_seen.insert(name);
    node_up.Add(of_node).Set(1);
    set(driver_silent, of_node, node.driver_silent_s);
    if (!node.report.cluster) return;
    const Node& hardware = node.report.cluster->nodes.front();
    set(node_memory, of_node, static_cast<double>(hardware.memory_bytes));
    set(node_devices, of_node, static_cast<double>(hardware.devices.size()));
    set(node_held, of_node, static_cast<double>(node.use.held.size()));
    if (node.use.memory_free > 0) set(node_memory_free, of_node, static_cast<double>(node.use.memory_free));
    for (size_t gpu = 0; gpu < node.use.gpu_memory_free.size(); ++gpu) {
      Labels of_gpu = of_node;
      of_gpu["device"] = std::to_string(gpu);
      set(gpu_memory_free, of_gpu, static_cast<double>(node.use.gpu_memory_free[gpu]));
    }
  }

  std::optional<PlanAccuracy> accuracy;

  void hold_against_plan(uint32_t replica, const ReplicaStatus& status) {
    if (!accuracy) return;
    const PlanAccuracy::Ratios& ratios = accuracy->observe(replica, status, now_ms());
    for (const auto& [steps, ratio] : {std::pair("decode", ratios.decode), std::pair("prefill", ratios.prefill)}) {
      if (!ratio) continue;
      Labels labels = engine(replica);
      labels["steps"] = steps;
      predicted.Add(labels).Set(*ratio);
    }
  }

  // Counts that replicas report since their launch become counters that never fall.
  std::map<std::pair<const Family<Counter>*, uint32_t>, double> reported;

  void follow(Family<Counter>& family, uint32_t replica, double value) {
    double& last = reported[{&family, replica}];
    family.Add(engine(replica)).Increment(value >= last ? value - last : value);
    last = value;
  }
};

ServerMetrics::ServerMetrics(const std::string& model_name) : state_(std::make_unique<State>(model_name)) {
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    state_->success.Add(state_->labels("finished_reason", reason));
  }
}

ServerMetrics::~ServerMetrics() = default;

void ServerMetrics::first_token(double seconds, int64_t prompt_tokens) {
  state_->ttft.Observe(seconds);
  state_->prompt_tokens.Increment(static_cast<double>(prompt_tokens));
}

void ServerMetrics::tokens_generated(int64_t tokens) {
  state_->generation_tokens.Increment(static_cast<double>(tokens));
}

void ServerMetrics::inter_token(double seconds_per_token, int64_t tokens) {
  for (int64_t i = 0; i < tokens; ++i) state_->inter_token.Observe(seconds_per_token);
}

void ServerMetrics::choice_finished(std::string_view reason) {
  state_->success.Add(state_->labels("finished_reason", std::string(reason))).Increment();
}

void ServerMetrics::request_finished(const RequestSummary& summary) {
  state_->requests.Add(state_->labels("status", std::to_string(summary.status))).Increment();
  if (summary.status != 200) return;
  state_->e2e.Observe(summary.e2e_s);
  state_->prompt_size.Observe(static_cast<double>(summary.prompt_tokens));
  state_->generation_size.Observe(static_cast<double>(summary.generation_tokens));
}

void ServerMetrics::expect(PlanAccuracy accuracy) { state_->accuracy.emplace(std::move(accuracy)); }

void ServerMetrics::replica_ready(uint32_t replica, double load_seconds) {
  state_->load_seconds.Add(state_->engine(replica)).Set(load_seconds);
}

void ServerMetrics::ranks_hold(uint32_t replica, const std::vector<RankBytes>& ranks) {
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    Labels labels = state_->engine(replica);
    labels["rank"] = std::to_string(rank);
    labels["kind"] = "planned";
    state_->rank_memory.Add(labels).Set(static_cast<double>(ranks[rank].planned));
    labels["kind"] = "taken";
    state_->rank_memory.Add(labels).Set(static_cast<double>(ranks[rank].taken));
  }
}

void ServerMetrics::replica_lost(uint32_t replica) { state_->losses.Add(state_->engine(replica)).Increment(); }

std::string ServerMetrics::render(const Core& core, const HttpCounters& http) {
  State& s = *state_;
  for (const Core::Replica& replica : core.replicas()) {
    const uint32_t id = replica.spec.replica;
    const Labels labels = s.engine(id);
    s.running.Add(labels).Set(replica.status.running);
    s.waiting.Add(labels).Set(replica.status.waiting);
    s.kv_usage.Add(labels).Set(replica.status.kv_usage);
    s.replica_up.Add(labels).Set(replica.state == Core::ReplicaState::kReady ? 1 : 0);
    s.replica_ranks.Add(labels).Set(replica.spec.ranks());
    s.losses.Add(labels);
    s.follow(s.preemptions, id, static_cast<double>(replica.status.preemptions));
    s.follow(s.prefix_queries, id, static_cast<double>(replica.status.prefix_queries));
    s.follow(s.prefix_hits, id, static_cast<double>(replica.status.prefix_hits));
    s.follow(s.steps, id, static_cast<double>(replica.status.steps));
    s.follow(s.starved, id, replica.status.starved_seconds);
    s.follow(s.launches, id, static_cast<double>(replica.launches));
    s.hold_against_plan(id, replica.status);
  }
  s.show(core.nodes());
  s.in_flight.Set(static_cast<double>(core.requests()));
  s.connections.Set(static_cast<double>(http.connections));
  const std::pair<const char*, int64_t> refusals[] = {{"connection_limit", http.connections_refused},
                                                      {"request", http.requests_refused},
                                                      {"timeout", http.timeouts},
                                                      {"slow_stream", http.slow_streams_cut}};
  for (const auto& [cause, count] : refusals) {
    Counter& counter = s.refused.Add(s.labels("cause", cause));
    counter.Increment(static_cast<double>(count) - counter.Value());
  }
  return prometheus::TextSerializer().Serialize(s.registry.Collect());
}

}  // namespace skein
