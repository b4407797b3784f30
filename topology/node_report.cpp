#include "topology/node_report.h"

#include <algorithm>
#include <set>

#include "base/host_memory.h"
#include "base/json.h"
#include "topology/cluster_file.h"
#include "topology/contradictions.h"
#include "topology/nics.h"

namespace skein {
namespace {

constexpr int64_t kFreeGrains = 64;
constexpr size_t kFindingsMax = 256;
constexpr double kRateAssumed = 10e9 / 8;  // of an interface that is in use and does not tell

// The address is reached by it, whatever discovery thought of it: a bond, a bridge, IP over InfiniBand.
void ensure_interface(const DiscoveryRoots& roots, const std::string& name, Node* node) {
  auto nic = std::ranges::find(node->nics, name, &Nic::name);
  if (nic == node->nics.end()) nic = node->nics.insert(nic, interface_nic(Sysfs(roots.sysfs), name));
  nic->up = true;
  if (nic->bytes_per_s > 0) return;
  nic->bytes_per_s = kRateAssumed;
  nic->rate_assumed = true;
}

Result<std::vector<std::string>> texts_of(const Json* list) {
  std::vector<std::string> texts;
  if (list == nullptr) return texts;
  if (!list->is_array() || list->as_array().size() > kFindingsMax) {
    return invalid_argument("findings must be a list of at most 256 sentences");
  }
  for (const Json& text : list->as_array()) {
    if (!text.is_string()) return invalid_argument("findings must be sentences");
    texts.push_back(text.as_string());
  }
  return texts;
}

// Both describe a kind of that name: `kind` becomes what holds for either.
void take_the_least(DeviceKind* kind, const DeviceKind& other) {
  kind->memory_bytes = std::min(kind->memory_bytes, other.memory_bytes);
  for (double DeviceKind::* figure : {&DeviceKind::read_bytes_per_s, &DeviceKind::bf16_flops, &DeviceKind::fp8_flops,
                                      &DeviceKind::pcie_bytes_per_s}) {
    kind->*figure = std::min(kind->*figure, other.*figure);
  }
  // A node without NVLink says 0; its devices are in no domain.
  kind->nvlink_bytes_per_s = std::max(kind->nvlink_bytes_per_s, other.nvlink_bytes_per_s);
  kind->nvlinks = std::max(kind->nvlinks, other.nvlinks);
}

int kind_in(Cluster* joined, const DeviceKind& kind) {
  const auto there = std::ranges::find_if(
      joined->kinds, [&](const DeviceKind& other) { return other.name == kind.name && other.gpu == kind.gpu; });
  const auto index = static_cast<int>(there - joined->kinds.begin());
  if (there == joined->kinds.end()) joined->kinds.push_back(kind);
  else take_the_least(&*there, kind);
  return index;
}

// 0 means all of it, so that nothing free is the least that can be said.
int64_t in_grains(int64_t free, int64_t all) {
  const int64_t grain = std::max<int64_t>(all / kFreeGrains, 1);
  return std::max<int64_t>(std::min(free, all) / grain * grain, 1);
}

void take_use(const NodeUse& use, const Cluster& cluster, Node* node) {
  if (use.memory_free > 0) node->memory_free = use.memory_free;
  size_t gpu = 0;
  for (Device& device : node->devices) {
    if (!kind_of(cluster, device).gpu) continue;
    if (gpu < use.gpu_memory_free.size() && use.gpu_memory_free[gpu] > 0) device.memory_free = use.gpu_memory_free[gpu];
    ++gpu;
  }
}

void round_free(Cluster* cluster) {
  for (Node& node : cluster->nodes) {
    if (node.memory_free > 0) node.memory_free = in_grains(node.memory_free, node.memory_bytes);
    for (Device& device : node.devices) {
      const int64_t all = kind_of(*cluster, device).memory_bytes;
      if (device.memory_free > 0) device.memory_free = in_grains(device.memory_free, all);
    }
  }
}

}  // namespace

NodeReport report_node(const std::string& name, const Interface& interface, const DiscoveryRoots& roots) {
  Discovery discovery = discover({}, roots);
  NodeReport report{.cluster = std::nullopt, .findings = std::move(discovery.notes)};
  Node& node = discovery.cluster.nodes.front();
  node.name = discovery.cluster.name = name;
  node.memory_free = std::clamp<int64_t>(host_memory().available, 1, std::max<int64_t>(node.memory_bytes, 1));
  ensure_interface(roots, interface.name, &node);
  assign_nics(&discovery.cluster);
  if (const Status valid = validate(discovery.cluster); !valid.ok()) {
    report.findings.push_back("its hardware cannot be described: " + valid.message());
    return report;
  }
  for (std::string& doubt : doubts(discovery.cluster, 0)) report.findings.push_back(std::move(doubt));
  report.cluster = std::move(discovery.cluster);
  return report;
}

std::string to_text(const NodeReport& report) {
  Json json = Json::object();
  if (report.cluster) json.set("cluster", to_json(*report.cluster));
  const auto told = static_cast<ptrdiff_t>(std::min(report.findings.size(), kFindingsMax));
  json.set("findings", Json::Array(report.findings.begin(), report.findings.begin() + told));
  std::string text = json.dump();
  if (text.size() <= kNodeReportBytesMax) return text;
  return to_text({.cluster = std::nullopt,
                  .findings = {"its hardware cannot be described: a report of " + std::to_string(text.size()) +
                               " bytes is over the limit"}});
}

Result<NodeReport> parse_node_report(std::string_view text, const std::string& name) {
  ASSIGN_OR_RETURN(const Json json, parse_json(text, {.bytes_max = kNodeReportBytesMax}));
  if (!json.is_object()) return invalid_argument("a report is an object with \"cluster\" and \"findings\"");
  NodeReport report;
  ASSIGN_OR_RETURN(report.findings, texts_of(json.find("findings")));
  const Json* cluster = json.find("cluster");
  if (cluster == nullptr) return report;
  ASSIGN_OR_RETURN(report.cluster, parse_cluster(cluster->dump(), 1));
  const std::string& described = report.cluster->nodes.front().name;
  if (described != name) return invalid_argument("it describes the node \"" + described + "\"");
  return report;
}

std::string with_free_of(const std::string& before, const std::string& now, const std::string& name) {
  const Result<NodeReport> first = parse_node_report(before, name);
  Result<NodeReport> next = parse_node_report(now, name);
  if (!first.ok() || !next.ok() || !first->cluster || !next->cluster) return now;
  const Node& then = first->cluster->nodes.front();
  Node& node = next->cluster->nodes.front();
  node.memory_free = then.memory_free;
  for (Device& device : node.devices) {
    const auto same = std::ranges::find(then.devices, device.pci, &Device::pci);
    if (same != then.devices.end()) device.memory_free = same->memory_free;
  }
  return to_text(*next);
}

Result<Cluster> join_nodes(const std::vector<ReportedNode>& nodes) {
  if (nodes.empty()) return unavailable("no agent has described its node");
  Cluster joined;
  std::set<std::string> networks;
  for (const ReportedNode& reported : nodes) networks.insert(reported.network);
  for (const ReportedNode& reported : nodes) {
    Node node = reported.hardware->nodes.front();
    node.line = 0;
    for (Device& device : node.devices) {
      device.kind = kind_in(&joined, kind_of(*reported.hardware, device));
      device.line = 0;
      device.pci.clear();
    }
    for (Nic& nic : node.nics) nic.line = 0;
    if (networks.size() > 1) node.rack = reported.network;
    take_use(reported.use, joined, &node);
    joined.nodes.push_back(std::move(node));
  }
  for (DeviceKind& kind : joined.kinds) kind.line = 0;
  round_free(&joined);
  RETURN_IF_ERROR(validate(joined));
  assign_nics(&joined);
  return joined;
}

}  // namespace skein
