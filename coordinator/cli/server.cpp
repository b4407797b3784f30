#include "coordinator/cli/server.h"

#include <algorithm>

#include "base/log.h"
#include "coordinator/api/api.h"
#include "coordinator/cli/agents.h"
#include "coordinator/cli/metrics.h"
#include "coordinator/cli/rank_memory.h"
#include "coordinator/control/cluster.h"
#include "coordinator/http/loop.h"
#include "coordinator/http/server.h"

namespace skein {
namespace {

constexpr int kTextThreads = 1;
constexpr size_t kTextJobsMax = 1024;

bool is_this_machine(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

Result<HttpConfig> http_config(const ServeConfig& config) {
  HttpConfig http;
  http.host = config.host;
  http.port = static_cast<uint16_t>(config.port);
  http.access.allowed_origins = config.allowed_origins;
  if (!config.api_key_file.empty()) {
    ASSIGN_OR_RETURN(http.access.api_keys, load_api_keys(config.api_key_file));
  } else if (!is_this_machine(config.host) && !config.insecure) {
    return invalid_argument("--host " + config.host +
                            " can be reached from other machines: give --api-key-file, or --insecure to do without");
  }
  return http;
}

Status check_keys(const ServePlan& plan, const AllowList& allowed) {
  for (const PlannedReplica& replica : plan.replicas) {
    for (const RankPlace& place : replica.spec.places) {
      const auto names_it = [&](const auto& entry) { return entry.second == place.node; };
      if (std::ranges::any_of(allowed, names_it)) continue;
      return invalid_argument("the node " + place.node + " has a rank, but no key in " + plan.config.allow_list +
                              ": add it there, or correct its name");
    }
  }
  return {};
}

Result<ClusterConfig> cluster_config(const ServePlan& plan) {
  ClusterConfig config;
  if (plan.config.clustered()) {
    ASSIGN_OR_RETURN(config.listen, listen_config(plan.config));
    RETURN_IF_ERROR(check_keys(plan, config.listen->keys.allowed));
  }
  for (const PlannedReplica& replica : plan.replicas) config.core.replicas.push_back(replica.spec);
  if (plan.placement && !plan.config.gathered()) config.core.described = plan.placement->cluster;
  config.core.waiting_max = plan.config.max_waiting_requests;
  config.core.launch_timeout_ms = static_cast<int64_t>(plan.config.startup_timeout * 1000);
  return config;
}

}  // namespace

struct Server::State {
  Loop& loop;
  const ServePlan& plan;
  Events events;
  ServedModel model;
  ServerMetrics metrics;
  std::unique_ptr<ReplicaEngine> cluster;
  std::unique_ptr<TextPool> pool;
  std::unique_ptr<Api> api;
  std::unique_ptr<HttpServer> http;
  bool announced = false;
  bool draining = false;
  bool ending = false;
  Status outcome;

  State(Loop& loop, const ServePlan& plan, Events events, ServedModel model)
      : loop(loop), plan(plan), events(std::move(events)), model(std::move(model)), metrics(this->model.name) {}

  Status open(HttpConfig config) {
    ASSIGN_OR_RETURN(ClusterConfig replicas, cluster_config(plan));
    ASSIGN_OR_RETURN(cluster,
                     ReplicaEngine::start(loop, std::move(replicas),
                                    {.ready = [this](const ReplicaReady& ready) { on_ready(ready); },
                                     .lost = [this](const ReplicaLost& lost) { on_lost(lost); },
                                     .failed = [this](const std::string& reason) { end(unavailable(reason)); }}));
    if (plan.placement) {
      const std::vector<PlacedReplica>& placed = plan.placement->plan.replicas;
      metrics.expect(PlanAccuracy(std::make_unique<Forecast>(plan.placement->request, placed), placed.size()));
    }
    cluster->set_metrics([this] { return metrics.render(cluster->core(), http->counters()); });
    pool = std::make_unique<TextPool>(kTextThreads, kTextJobsMax,
                                      [this](std::function<void()> call) { loop.post(std::move(call)); });
    api = std::make_unique<Api>(*cluster, model, metrics, *pool, ApiLimits{});
    http = std::make_unique<HttpServer>(loop, std::move(config),
                                        [this](HttpRequest request, const std::shared_ptr<ResponseWriter>& writer) {
                                          api->handle(std::move(request), writer);
                                        });
    return http->listen();
  }

  void on_ready(const ReplicaReady& ready) {
    const RegisterReplica& replica = ready.registration;
    metrics.replica_ready(ready.replica, replica.load_seconds);
    const std::vector<RankBytes> held = bytes_of_ranks(plan.replicas[ready.replica].memory, replica);
    metrics.ranks_hold(ready.replica, held);
    if (const auto missed = miss(plan.replicas[ready.replica].memory, held)) {
      log_warning("memory differs from the plan", {{"replica", int64_t{ready.replica}}, {"ranks", *missed}});
    }
    log_info("replica ready", {{"replica", int64_t{ready.replica}},
                               {"ranks", int64_t{replica.ranks}},
                               {"transport", replica.transport},
                               {"load_seconds", replica.load_seconds},
                               {"kv_tokens", replica.kv_tokens},
                               {"context_max", int64_t{replica.context_max}},
                               {"requests_of_full_length", replica.kv_tokens / static_cast<uint64_t>(plan.context_max)}});
    if (announced || !cluster->core().all_were_ready()) return;
    announced = true;
    const bool six = plan.config.host.find(':') != std::string::npos;
    const std::string host = six ? "[" + plan.config.host + "]" : plan.config.host;
    events.ready("http://" + host + ":" + std::to_string(http->port()));
  }

  void on_lost(const ReplicaLost& lost) {
    metrics.replica_lost(lost.replica);
    log_error("replica lost", {{"replica", int64_t{lost.replica}},
                               {"cause", lost.reason},
                               {"requests", lost.requests},
                               {"retry_in_ms", lost.retry_in_ms}});
  }

  void end(Status why) {
    if (ending) return;
    ending = true;
    outcome = std::move(why);
    loop.post([this] {
      cluster->stop([this] {
        http->close();
        events.ended(outcome);
      });
    });
  }

  void shut_down() {
    if (draining) return end({});
    draining = true;
    cluster->drain(plan.config.drain_seconds, [this] {
      // The last answers leave; a client that does not take its answer must not hold the server up.
      auto once = std::make_shared<bool>(false);
      const auto finish = [this, once] {
        if (!std::exchange(*once, true)) end({});
      };
      http->drain(finish);
      loop.call_after(2000, finish);
    });
  }
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(Loop& loop, const ServePlan& plan, Events events) {
  ASSIGN_OR_RETURN(HttpConfig http, http_config(plan.config));
  ASSIGN_OR_RETURN(ServedModel model, describe_served_model(plan.model, default_model_name(plan.config),
                                                            plan.config.chat_template, plan.context_max));
  if (model.tokenizer == nullptr) {
    events.note("the model has no tokenizer: prompts must be token ids");
  } else if (!model.chat_template) {
    events.note("the model has no chat template: /v1/chat/completions is off; --chat-template gives one");
  }
  auto state = std::make_unique<State>(loop, plan, std::move(events), std::move(model));
  RETURN_IF_ERROR(state->open(std::move(http)));
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

void Server::shut_down() { state_->shut_down(); }

}  // namespace skein
