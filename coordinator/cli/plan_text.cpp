#include "coordinator/cli/plan_text.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <map>

#include "topology/shapes.h"

namespace skein {
namespace {

constexpr size_t kReplicasShownMax = 2;  // of one kind, stage by stage; the map has all

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string rate_text(double value) {
  if (value >= 100) return format("%.0f", value);
  return value >= 10 ? format("%.1f", value) : format("%.2f", value);
}

std::string count_text(size_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

// What rounds to nothing has no sign.
std::string percent_text(double share) {
  const double percent = std::round(100 * share);
  return percent == 0 ? "0 %" : format("%+.0f %%", percent);
}

std::string cluster_line(const Cluster& cluster) {
  std::map<int, int> counts;
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) ++counts[device.kind];
  }
  std::string text = cluster.name + ": " + count_text(cluster.nodes.size(), "node");
  for (const auto& [kind, count] : counts) {
    const DeviceKind& of = cluster.kinds[static_cast<size_t>(kind)];
    text += ", " + std::to_string(count) + " x " + of.name + (of.gpu ? "" : " core");
  }
  return text;
}

std::string demand_line(const ModelDemand& demand) {
  const Load& load = demand.load;
  std::string text = demand.name + ", " + std::to_string(load.input_tokens) + " tokens in, " +
                     std::to_string(load.output_tokens) + " out, ";
  text += load.request_rate > 0 ? rate_text(load.request_rate) + " requests/s" : "as many requests as can be served";
  if (demand.level.ttft_ms > 0) text += ", first token within " + rate_text(demand.level.ttft_ms) + " ms";
  if (demand.level.itl_ms > 0) text += ", a token every " + rate_text(demand.level.itl_ms) + " ms";
  return text;
}

std::string outcome_line(const ModelOutcome& outcome) {
  return rate_text(outcome.request_rate) + " requests/s, " + rate_text(outcome.output_rate) + " tokens/s; first token after " +
         rate_text(outcome.ttft_ms) + " ms, then one every " + rate_text(outcome.itl_ms) + " ms";
}

// Replicas that differ in place only.
bool alike(const Placement& placement, const PlacedReplica& a, const PlacedReplica& b) {
  const auto same_device = [&](const DeviceId& x, const DeviceId& y) {
    return &kind_of(placement.cluster, x) == &kind_of(placement.cluster, y);
  };
  const auto same_stage = [](const PlannedStage& x, const PlannedStage& y) {
    return x.layers == y.layers && x.to_next == y.to_next;
  };
  return a.model == b.model && a.tensor_parallel_size == b.tensor_parallel_size &&
         std::ranges::equal(a.stages, b.stages, same_stage) && std::ranges::equal(a.devices, b.devices, same_device);
}

std::string devices_text(const Placement& placement, const PlacedReplica& replica, size_t stage) {
  const auto tp = static_cast<size_t>(replica.tensor_parallel_size);
  const DeviceId first = replica.devices[stage * tp];
  const Node& node = placement.cluster.nodes[static_cast<size_t>(first.node)];
  const DeviceKind& kind = kind_of(placement.cluster, first);
  if (!kind.gpu) {
    const size_t cores = node.devices.size();
    const size_t of_rank = cores / static_cast<size_t>(ranks_of_cores(placement.request, cores));
    return node.name + ", " + (tp > 1 ? std::to_string(tp) + " x " : "") + count_text(of_rank, "core");
  }
  std::string text = node.name + " GPU";
  for (size_t rank = 0; rank < tp; ++rank) text += " " + std::to_string(replica.devices[stage * tp + rank].device);
  return text + " (" + kind.name + ")";
}

std::string stage_lines(const Placement& placement, const PlacedReplica& replica) {
  std::string text;
  int layer = 0;
  for (size_t i = 0; i < replica.stages.size(); ++i) {
    const PlannedStage& stage = replica.stages[i];
    const RankMemory& memory = stage.memory;
    text += format("            layers %d-%d on %s: weights %s, activations %s", layer, layer + stage.layers - 1,
                   devices_text(placement, replica, i).c_str(), readable_bytes(memory.weights).c_str(),
                   readable_bytes(memory.activations).c_str());
    if (memory.runtime > 0) text += ", runtime " + readable_bytes(memory.runtime);
    const int block = placement.request.models[static_cast<size_t>(replica.model)].memory.block_tokens;
    text += ", KV " + readable_bytes(memory.kv_per_token * replica.kv_blocks * block);
    if (i + 1 < replica.stages.size()) text += "; then over " + std::string(name(stage.to_next));
    text += "\n";
    layer += stage.layers;
  }
  return text;
}

std::string burst_line(const Placement& placement, const PlacedReplica& replica) {
  const int prompts = placement.request.burst_prompts;
  const Load& load = placement.request.models[static_cast<size_t>(replica.model)].load;
  const Burst& burst = replica.burst;
  return format("            %d prompts at once: prefill %.1f tokens/s, then %.1f tokens/s in steps of %.3f ms\n",
                prompts, prompts * load.input_tokens / burst.prefill_s, prompts / burst.decode_step_ms * 1e3,
                burst.decode_step_ms);
}

std::string replica_lines(const Placement& placement) {
  const std::vector<PlacedReplica>& replicas = placement.plan.replicas;
  std::string text;
  for (size_t first = 0; first < replicas.size();) {
    size_t end = first + 1;
    while (end < replicas.size() && alike(placement, replicas[first], replicas[end])) ++end;
    const PlacedReplica& replica = replicas[first];
    const ModelDemand& demand = placement.request.models[static_cast<size_t>(replica.model)];
    const int64_t tokens = int64_t{replica.kv_blocks} * demand.memory.block_tokens;
    text += (end - first == 1 ? format("replica     %zu: ", first) : format("replicas    %zu-%zu, each ", first, end - 1)) +
            shape_text(replica);
    if (replica.group_link != LinkKind::kSelf) text += " over " + std::string(name(replica.group_link));
    text += format(" for %s: up to %s requests/s with %.0f at once; KV cache %lld tokens in %d blocks\n",
                   demand.name.c_str(), rate_text(replica.best.request_rate).c_str(), replica.best.concurrency,
                   static_cast<long long>(tokens), replica.kv_blocks);
    if (placement.request.burst_prompts > 0) text += burst_line(placement, replica);
    for (size_t i = first; i < std::min(end, first + kReplicasShownMax); ++i) {
      text += stage_lines(placement, replicas[i]);
    }
    if (end - first > kReplicasShownMax) {
      text += format("            and %zu more alike: see the map\n", end - first - kReplicasShownMax);
    }
    first = end;
  }
  return text;
}

// "0.0 0.1 1.0 1.1 - -": replica and rank of each device, replicas counted from the node's first.
std::string pattern_of(const std::vector<Seat>& seats, int* first) {
  *first = -1;
  for (const Seat& seat : seats) {
    if (seat.replica >= 0 && (*first < 0 || seat.replica < *first)) *first = seat.replica;
  }
  std::string text;
  for (const Seat& seat : seats) {
    text += seat.replica < 0 ? " -" : format(" %d.%d", seat.replica - *first, seat.rank);
  }
  return text;
}

std::string map_lines(const Placement& placement) {
  const std::vector<Node>& nodes = placement.cluster.nodes;
  const std::vector<std::vector<Seat>> seats = seats_by_node(placement);
  std::string text = "map         replica.rank of each device\n";
  size_t width = 0;
  for (const Node& node : nodes) width = std::max(width, node.name.size());
  const auto same_devices = [&](const Node& a, const Node& b) {
    return std::ranges::equal(a.devices, b.devices, {}, &Device::kind, &Device::kind);
  };
  for (size_t i = 0; i < nodes.size();) {
    int first = 0;
    const std::string pattern = pattern_of(seats[i], &first);
    size_t end = i + 1;
    for (int other; end < nodes.size() && same_devices(nodes[i], nodes[end]); ++end) {
      if (pattern_of(seats[end], &other) != pattern) break;
    }
    if (end - i > 3) {
      text += format("            %s to %s, %zu nodes alike", nodes[i].name.c_str(), nodes[end - 1].name.c_str(), end - i);
      text += first < 0 ? ": idle\n" : format(", replicas counted from %d:", first) + pattern + "\n";
      i = end;
      continue;
    }
    text += format("            %-*s", static_cast<int>(width), nodes[i].name.c_str());
    for (const Seat& seat : seats[i]) text += seat.replica < 0 ? " -" : format(" %d.%d", seat.replica, seat.rank);
    text += "\n";
    ++i;
  }
  return text;
}

std::string why_lines(const ModelPlan& plan) {
  std::string text;
  for (const Alternative& other : plan.alternatives) {
    text += format("otherwise   %d x (%s) on %d devices: ", other.replicas, other.what.c_str(), other.outcome.devices) +
            outcome_line(other.outcome) + " (" + percent_text(other.change) + ")\n";
  }
  for (const ConstraintCost& cost : plan.constraints) {
    text += "constraint  " + cost.constraint + ": ";
    text += cost.gain == 0 ? std::string("costs nothing\n")
                           : "without it " + cost.without + ", " + percent_text(cost.gain) + "\n";
  }
  return text;
}

}  // namespace

std::string shape_text(const PlacedReplica& replica) {
  return format("TP %d x PP %d", replica.tensor_parallel_size, replica.pipeline_parallel_size);
}

std::vector<std::vector<Seat>> seats_by_node(const Placement& placement) {
  std::vector<std::vector<Seat>> seats;
  for (const Node& node : placement.cluster.nodes) seats.emplace_back(node.devices.size());
  for (size_t i = 0; i < placement.plan.replicas.size(); ++i) {
    const PlacedReplica& replica = placement.plan.replicas[i];
    for (size_t rank = 0; rank < replica.devices.size(); ++rank) {
      const DeviceId id = replica.devices[rank];
      const Seat seat{.replica = static_cast<int>(i), .rank = static_cast<int>(rank)};
      std::vector<Seat>& node = seats[static_cast<size_t>(id.node)];
      node[static_cast<size_t>(id.device)] = seat;
      if (kind_of(placement.cluster, id).gpu) continue;
      // A rank on cores has all of its node's up to the next rank's.
      std::fill(node.begin() + id.device, node.end(), seat);
    }
  }
  return seats;
}

std::string plan_text(const Placement& placement) {
  const PlacementPlan& plan = placement.plan;
  std::string text = "cluster     " + cluster_line(placement.cluster) + "\n";
  for (size_t i = 0; i < plan.models.size(); ++i) {
    const ModelOutcome& outcome = plan.models[i].outcome;
    text += "model       " + demand_line(placement.request.models[i]) + "\n";
    text += "predicted   " + outcome_line(outcome) + "; at most " + rate_text(outcome.request_rate_max) + " requests/s, on " +
            count_text(static_cast<size_t>(outcome.devices), "device") + "\n";
  }
  text += replica_lines(placement) + map_lines(placement);
  if (!plan.left_over.empty()) text += "left over   " + count_text(plan.left_over.size(), "device") + "\n";
  if (plan.moved > 0) text += "moved       " + count_text(static_cast<size_t>(plan.moved), "replica") + ", whose devices are all still there\n";
  for (size_t i = 0; i < plan.models.size(); ++i) text += why_lines(plan.models[i]);
  for (const std::string& note : all_notes(placement)) text += "note        " + note + "\n";
  return text;
}

}  // namespace skein
