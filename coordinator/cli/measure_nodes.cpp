#include "coordinator/cli/measure_nodes.h"

#include <signal.h>

#include <algorithm>
#include <cstdio>

#include "base/json.h"
#include "base/probe.h"
#include "coordinator/cli/agents.h"
#include "coordinator/cli/placement.h"
#include "coordinator/control/cluster.h"
#include "coordinator/http/loop.h"
#include "topology/calibrate.h"
#include "topology/network_links.h"
#include "topology/node_types.h"

namespace skein {
namespace {

constexpr double kDeadlineSeconds = 90;  // of one launch

// One launch, from its start until nothing is left of it: what its first rank had to say.
Result<RegisterReplica> launch(const ClusterConfig& config) {
  Loop loop;
  Result<RegisterReplica> outcome = unavailable("asked to end while measuring");
  std::unique_ptr<ReplicaEngine> engine;
  const auto end = [&](Result<RegisterReplica> with) {
    outcome = std::move(with);
    loop.post([&] { engine->stop([&] { loop.stop(); }); });
  };
  ASSIGN_OR_RETURN(engine, ReplicaEngine::start(
                               loop, config,
                               {.ready = [&](const ReplicaReady& ready) { end(ready.registration); },
                                .lost = [](const ReplicaLost&) {},  // it was to end
                                .failed = [&](const std::string& reason) { end(unavailable(reason)); }}));
  loop.on_signal({SIGINT, SIGTERM, SIGHUP}, [&](int) { end(unavailable("asked to end while measuring")); });
  loop.run();
  return outcome;
}

// The described nodes whose agents are here; without a description, as they describe themselves.
Result<Cluster> nodes_of(const ServeConfig& config, const Cluster& gathered) {
  if (config.placement.cluster.empty()) return gathered;
  ASSIGN_OR_RETURN(Cluster described, read_cluster(config.placement.cluster));
  std::erase_if(described.nodes, [&](const Node& node) {
    return std::ranges::find(gathered.nodes, node.name, &Node::name) == gathered.nodes.end();
  });
  return described;
}

class NodesMeasuring {
 public:
  NodesMeasuring(const ServeConfig& config, const ListenConfig& listen, const Cluster& cluster)
      : config_(config), listen_(listen), cluster_(cluster) {}

  Result<Measurement> run() {
    const std::vector<NetworkLink> links = links_between_nodes(cluster_);
    if (links.empty()) {
      return unsupported("there are no two nodes that ranks can run on and a network joins: start more agents, or look at "
                         "the nodes' NICs with `skein topology`");
    }
    for (const NetworkLink& link : links) RETURN_IF_ERROR(measure(link).within("the probe of " + name_of(link)));
    return std::move(result_);
  }

 private:
  Status measure(const NetworkLink& link) {
    std::fprintf(stderr, "measuring %s\n", name_of(link).c_str());
    ClusterConfig probe;
    probe.core.replicas.push_back(spec_of(link));
    probe.core.launch_timeout_ms = static_cast<int64_t>(std::min(config_.startup_timeout, kDeadlineSeconds) * 1000);
    probe.listen = listen_;
    ASSIGN_OR_RETURN(const RegisterReplica told, launch(probe));
    ASSIGN_OR_RETURN(const Json json, parse_json(told.samples));
    ASSIGN_OR_RETURN(const std::vector<ProbeSample> samples, parse_probe_samples(json));
    LinkCalibration fit = calibrate_path(link.path, samples);
    if (fit.point_to_point_us.empty()) return corrupt("the probe has no time of a message");
    fit.device = kind_of(cluster_, link.from).name;
    fit.source = measured_here(place_of(link.from) + " to " + place_of(link.to) + ", " + told.transport);
    tell(link, fit.point_to_point_us, told.transport);
    result_.calibration.links.push_back(std::move(fit));
    return {};
  }

  ReplicaSpec spec_of(const NetworkLink& link) const {
    ReplicaSpec spec;
    spec.probe = true;
    spec.device = kind_of(cluster_, link.from).gpu ? "cuda" : "cpu";
    spec.pipeline_parallel_size = 2;
    for (const DeviceId& id : {link.from, link.to}) spec.places.push_back({.node = node(id).name, .device = id.device});
    spec.ports = config_.ports;
    spec.context_max = 1;
    return spec;
  }

  // For people, and what contradicts the description.
  void tell(const NetworkLink& link, const Curve& sends, const std::string& transport) {
    const double carried = carried_bytes_per_s(sends);
    const std::string latency = short_number(sends.y.front()) + " us";
    say(name_of(link) + ": " + readable_rate(carried) + ", a short message " + latency + ", " + transport + "\n");
    suspect(name_of(link) + " (" + transport + ") carries", carried, link.path.bytes_per_s, readable_rate,
            &result_.findings);
    const bool rdma = link.path.link == LinkKind::kInfiniBand || link.path.link == LinkKind::kRoce;
    if (!rdma || transport.find("InfiniBand") != std::string::npos) return;
    result_.findings.push_back(name_of(link) + " is described, and the ranks took " + transport);
  }

  // "TCP between node-a:0 and node-b:0"
  std::string name_of(const NetworkLink& link) const {
    return std::string(name(link.path.link)) + " between " + place_of(link.from) + " and " + place_of(link.to);
  }
  std::string place_of(DeviceId id) const { return node(id).name + ":" + std::to_string(id.device); }
  const Node& node(DeviceId id) const { return cluster_.nodes[static_cast<size_t>(id.node)]; }

  const ServeConfig& config_;
  const ListenConfig& listen_;
  const Cluster& cluster_;
  Measurement result_;
};

}  // namespace

Result<Measurement> measure_nodes(const ServeConfig& config) {
  ASSIGN_OR_RETURN(const ListenConfig listen, listen_config(config));
  ASSIGN_OR_RETURN(const GatheredNodes gathered, gather_agents(config, "name other nodes with --nodes"));
  if (!gathered.busy.empty()) {
    return unavailable("the agent of " + gathered.busy.front() + " runs ranks that wait for their coordinator, and measuring "
                       "would end them: end them with `skein serve` and the same settings, or start that agent anew");
  }
  ASSIGN_OR_RETURN(const Cluster cluster, nodes_of(config, gathered.cluster));
  return NodesMeasuring(config, listen, cluster).run();
}

}  // namespace skein
