#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>

#include "topology/cluster_file.h"
#include "topology/device_kinds.h"

namespace skein {
namespace {

constexpr double kGib = 1024.0 * 1024 * 1024;
constexpr size_t kFlowColumns = 110;

// Twelve digits: what a rate loses by the division comes back when it is read.
Json rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.12g", value);
  Result<Json> number = parse_json(text);
  return number.ok() ? *number : Json(value);
}

Json gib(int64_t bytes) {
  const double value = static_cast<double>(bytes) / kGib;
  return value == std::floor(value) ? Json(static_cast<int64_t>(value)) : Json(value);  // exact in either case
}

void set_number(Json* json, const char* key, double value, double unit) {
  if (value > 0) json->set(key, rounded(value / unit));
}

void set_index(Json* json, const char* key, int value) {
  if (value >= 0) json->set(key, value);
}

bool same_figures(const DeviceKind& a, const DeviceKind& b) {
  return a.gpu == b.gpu && a.memory_bytes == b.memory_bytes && a.read_bytes_per_s == b.read_bytes_per_s &&
         a.bf16_flops == b.bf16_flops && a.fp8_flops == b.fp8_flops && a.nvlink_bytes_per_s == b.nvlink_bytes_per_s &&
         a.nvlinks == b.nvlinks && a.pcie_bytes_per_s == b.pcie_bytes_per_s;
}

Json kind_json(const DeviceKind& kind) {
  Json json = Json::object();
  json.set("name", kind.name);
  if (!kind.gpu) json.set("type", "cpu");
  if (kind.memory_bytes > 0) json.set("memory_gib", gib(kind.memory_bytes));
  set_number(&json, "read_gb_per_s", kind.read_bytes_per_s, 1e9);
  set_number(&json, "tflops", kind.bf16_flops, 1e12);
  set_number(&json, "fp8_tflops", kind.fp8_flops, 1e12);
  set_number(&json, "nvlink_gb_per_s", kind.nvlink_bytes_per_s, 1e9);
  if (kind.nvlinks > 0) json.set("nvlinks", kind.nvlinks);
  set_number(&json, "pcie_gb_per_s", kind.pcie_bytes_per_s, 1e9);
  if (!kind.source.empty()) json.set("source", kind.source);
  return json;
}

Json device_json(const Cluster& cluster, const Device& device) {
  Json json = Json::object();
  json.set("kind", kind_of(cluster, device).name);
  set_index(&json, "numa", device.numa);
  if (!device.pci.empty()) json.set("pci", device.pci);
  set_index(&json, "nvlink_domain", device.nvlink_domain);
  set_index(&json, "nvlinks_up", device.nvlinks_up);
  if (device.memory_free > 0) json.set("memory_free_gib", gib(device.memory_free));
  return json;
}

Json nic_json(const Nic& nic) {
  constexpr const char* kNetworks[] = {"infiniband", "roce", "tcp"};
  Json json = Json::object();
  json.set("name", nic.name);
  json.set("network", kNetworks[static_cast<size_t>(nic.network)]);
  set_number(&json, "gbit_per_s", nic.bytes_per_s, 1e9 / 8);
  set_index(&json, "numa", nic.numa);
  set_index(&json, "rail", nic.rail);
  if (!nic.devices.empty()) json.set("devices", Json::Array(nic.devices.begin(), nic.devices.end()));
  if (!nic.up) json.set("up", false);
  return json;
}

void append(Json* to, const Json& members) {
  for (const auto& [key, value] : members.as_object()) to->set(key, value);
}

Json kinds_json(const Cluster& cluster) {
  std::set<int> used;
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) used.insert(device.kind);
  }
  Json kinds = Json::array();
  for (const int index : used) {
    const DeviceKind& kind = cluster.kinds[static_cast<size_t>(index)];
    const DeviceKind* known = find_known_gpu(kind.name);
    if (known == nullptr || !same_figures(*known, kind)) kinds.push_back(kind_json(kind));
  }
  return kinds;
}

bool is_plain(const std::string& text) {
  static const std::set<std::string> words = {"true", "false", "null", "yes", "no", "on", "off"};
  if (text.empty() || words.contains(text) || !std::isalpha(static_cast<unsigned char>(text[0]))) return false;
  return text.back() != ' ' && std::ranges::all_of(text, [](unsigned char c) {
           return std::isalnum(c) || c == ' ' || c == '_' || c == '-' || c == '.' || c == '/';
         });
}

std::string flow(const Json& json) {
  std::string out;
  if (json.is_object()) {
    for (const auto& [key, value] : json.as_object()) out += (out.empty() ? "" : ", ") + key + ": " + flow(value);
    return "{" + out + "}";
  }
  if (json.is_array()) {
    for (const Json& item : json.as_array()) out += (out.empty() ? "" : ", ") + flow(item);
    return "[" + out + "]";
  }
  return json.is_string() && is_plain(json.as_string()) ? json.as_string() : json.dump();
}

bool is_flat(const Json& json) {
  const auto is_leaf = [](const Json& value) {
    return !value.is_object() && !(value.is_array() && std::ranges::any_of(value.as_array(), &Json::is_object));
  };
  if (json.is_array()) return is_leaf(json);
  return !json.is_object() || std::ranges::all_of(json.as_object(), [&](const auto& member) {
    return is_leaf(member.second);
  });
}

// Maps of plain values on one line; everything else as blocks.
void block(const Json& json, const std::string& indent, std::string* out) {
  bool first = true;
  for (const auto& [key, value] : json.as_object()) {
    *out += (first ? "" : indent) + key + ":";
    first = false;
    if (!value.is_array() || is_flat(value)) {
      *out += " " + flow(value) + "\n";
      continue;
    }
    *out += "\n";
    for (const Json& item : value.as_array()) {
      *out += indent + "  - ";
      if (is_flat(item) && flow(item).size() <= kFlowColumns) *out += flow(item) + "\n";
      else block(item, indent + "    ", out);
    }
  }
}

}  // namespace

// Equal devices beside each other are counted.
Json body_json(const Cluster& cluster, const Node& node) {
  Json json = Json::object();
  json.set("cores", node.cores);
  json.set("memory_gib", gib(node.memory_bytes));
  if (node.memory_free > 0) json.set("memory_free_gib", gib(node.memory_free));
  Json devices = Json::array();
  for (size_t i = 0; i < node.devices.size();) {
    Json device = device_json(cluster, node.devices[i]);
    int count = 1;
    for (++i; i < node.devices.size() && device_json(cluster, node.devices[i]) == device; ++i) ++count;
    if (count > 1) device.set("count", count);
    devices.push_back(std::move(device));
  }
  if (!node.devices.empty()) json.set("devices", std::move(devices));
  Json nics = Json::array();
  for (const Nic& nic : node.nics) nics.push_back(nic_json(nic));
  if (!node.nics.empty()) json.set("nics", std::move(nics));
  return json;
}

Json to_json(const Cluster& cluster) {
  Json json = Json::object();
  if (!cluster.name.empty()) json.set("cluster", cluster.name);
  Json fabric = Json::object();
  set_number(&fabric, "latency_us", cluster.fabric.latency_us, 1);
  set_number(&fabric, "rack_latency_us", cluster.fabric.rack_latency_us, 1);
  if (cluster.fabric.oversubscription != 1) fabric.set("oversubscription", cluster.fabric.oversubscription);
  if (!fabric.as_object().empty()) json.set("fabric", std::move(fabric));
  Json kinds = kinds_json(cluster);
  if (!kinds.as_array().empty()) json.set("kinds", std::move(kinds));

  std::map<std::string, int> uses;  // of a body
  std::vector<Json> bodies;
  for (const Node& node : cluster.nodes) {
    bodies.push_back(body_json(cluster, node));
    ++uses[bodies.back().dump()];
  }
  std::map<std::string, std::string> names;  // of bodies that several nodes have
  Json templates = Json::array();
  Json nodes = Json::array();
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    Json node = Json::object();
    node.set("name", cluster.nodes[i].name);
    if (!cluster.nodes[i].rack.empty()) node.set("rack", cluster.nodes[i].rack);
    const std::string body = bodies[i].dump();
    if (uses[body] == 1) {
      append(&node, bodies[i]);
    } else {
      const auto [name, fresh] = names.emplace(body, "type-" + std::to_string(names.size() + 1));
      node.set("template", name->second);
      if (fresh) {
        Json entry = Json::object();
        entry.set("name", name->second);
        append(&entry, bodies[i]);
        templates.push_back(std::move(entry));
      }
    }
    nodes.push_back(std::move(node));
  }
  if (!templates.as_array().empty()) json.set("templates", std::move(templates));
  json.set("nodes", std::move(nodes));
  return json;
}

std::string to_yaml(const Cluster& cluster) {
  std::string out;
  block(to_json(cluster), "", &out);
  return out;
}

}  // namespace skein
