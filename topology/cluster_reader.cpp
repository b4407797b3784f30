#include <algorithm>
#include <climits>
#include <map>

#include "model/mapped_file.h"
#include "topology/cluster_file.h"
#include "topology/device_kinds.h"
#include "topology/yaml_fields.h"

namespace skein {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;
constexpr int kDevicesMax = 1024;           // of a node
constexpr size_t kAllDevicesMax = 1 << 20;  // of a cluster
constexpr int kNicsMax = 64;
constexpr double kGibMax = 1 << 20;
constexpr double kRateMax = 1e6;

Status at_line(int line, const std::string& what) {
  return invalid_argument("line " + std::to_string(line) + ": " + what);
}

class Reader {
 public:
  explicit Reader(int nodes_max) : nodes_max_(static_cast<size_t>(nodes_max)) {}

  Result<Cluster> read(const Yaml& yaml) {
    if (yaml.kind == Yaml::Kind::kNull) return invalid_argument("there is nothing in it: list a node at least under nodes");
    YamlFields fields(yaml, "a cluster file");
    fields.text("cluster", &cluster_.name);
    if (const Yaml* fabric = fields.map("fabric")) RETURN_IF_ERROR(read_fabric(*fabric));
    const Yaml* kinds = fields.list("kinds");
    const Yaml* templates = fields.list("templates");
    const Yaml* nodes = fields.list("nodes");
    RETURN_IF_ERROR(fields.finish());
    if (kinds != nullptr) {
      for (const Yaml& kind : kinds->list) RETURN_IF_ERROR(read_kind(kind));
    }
    if (templates != nullptr) {
      for (const Yaml& entry : templates->list) RETURN_IF_ERROR(note_template(entry));
      // Each by itself, so that one that no node uses is right, too.
      for (const Yaml& entry : templates->list) {
        ASSIGN_OR_RETURN(const Yaml merged, with_templates(entry));
        RETURN_IF_ERROR(read_node(merged, 0).status());
      }
    }
    if (nodes == nullptr) return invalid_argument("nodes are missing: list a node at least");
    for (const Yaml& node : nodes->list) RETURN_IF_ERROR(read_nodes(node));
    RETURN_IF_ERROR(validate(cluster_));
    assign_nics(&cluster_);
    return std::move(cluster_);
  }

 private:
  Status read_fabric(const Yaml& yaml) {
    YamlFields fields(yaml, "the fabric");
    fields.real("latency_us", 0, 1e6, 1, &cluster_.fabric.latency_us);
    fields.real("rack_latency_us", 0, 1e6, 1, &cluster_.fabric.rack_latency_us);
    fields.real("oversubscription", 1, 1000, 1, &cluster_.fabric.oversubscription);
    return fields.finish();
  }

  // Figures that are not given are those of the known GPU of that name.
  Status read_kind(const Yaml& yaml) {
    YamlFields fields(yaml, "a device kind");
    DeviceKind kind;
    fields.text("name", &kind.name);
    if (const DeviceKind* known = find_known_gpu(kind.name)) kind = *known;
    kind.line = yaml.line;
    int type = 0;
    fields.choice("type", {"gpu", "cpu"}, &type);
    kind.gpu = type == 0;
    fields.bytes("memory_gib", 0, kGibMax, &kind.memory_bytes);
    fields.real("read_gb_per_s", 0, kRateMax, 1e9, &kind.read_bytes_per_s);
    fields.real("tflops", 0, kRateMax, 1e12, &kind.bf16_flops);
    fields.real("fp8_tflops", 0, kRateMax, 1e12, &kind.fp8_flops);
    fields.real("nvlink_gb_per_s", 0, kRateMax, 1e9, &kind.nvlink_bytes_per_s);
    fields.integer("nvlinks", 0, 1024, &kind.nvlinks);
    fields.real("pcie_gb_per_s", 0, kRateMax, 1e9, &kind.pcie_bytes_per_s);
    fields.text("source", &kind.source);
    RETURN_IF_ERROR(fields.finish());
    cluster_.kinds.push_back(std::move(kind));
    return {};
  }

  Status note_template(const Yaml& yaml) {
    const auto name = std::ranges::find(yaml.map, "name", &Yaml::Member::key);
    if (name == yaml.map.end() || name->value.scalar.empty()) return at_line(yaml.line, "a template needs a name");
    const auto [other, fresh] = templates_.emplace(name->value.scalar, &yaml);
    if (fresh) return {};
    return at_line(yaml.line, "the template \"" + name->value.scalar + "\" is given twice, first at line " +
                                  std::to_string(other->second->line) + "; rename one");
  }

  // `yaml` with what its template adds, and that one's template.
  Result<Yaml> with_templates(const Yaml& yaml) const {
    Yaml merged = yaml;
    std::vector<std::string> chain;
    for (const Yaml* entry = &yaml;;) {
      const auto link = std::ranges::find(entry->map, "template", &Yaml::Member::key);
      if (link == entry->map.end()) break;
      const std::string& name = link->value.scalar;
      const auto found = templates_.find(name);
      if (found == templates_.end()) {
        return at_line(link->line, "there is no template \"" + name + "\"; list it under templates");
      }
      if (std::ranges::find(chain, name) != chain.end()) {
        return at_line(link->line, "the template \"" + name + "\" is made from itself; remove one template: of the circle");
      }
      chain.push_back(name);
      entry = found->second;
      for (const Yaml::Member& member : entry->map) {
        if (member.key == "name" || std::ranges::find(merged.map, member.key, &Yaml::Member::key) != merged.map.end()) {
          continue;
        }
        merged.map.push_back(member);
      }
    }
    std::erase_if(merged.map, [](const Yaml::Member& member) { return member.key == "template"; });
    return merged;
  }

  Status read_nodes(const Yaml& yaml) {
    ASSIGN_OR_RETURN(const Yaml merged, with_templates(yaml));
    int count = 1;
    YamlFields(merged, "a node").integer("count", 1, kNodesMax, &count);
    for (int i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(Node node, read_node(merged, i));
      node.line = yaml.line;
      devices_ += node.devices.size();
      cluster_.nodes.push_back(std::move(node));
      if (cluster_.nodes.size() > nodes_max_ || devices_ > kAllDevicesMax) {
        return at_line(yaml.line, nodes_max_ == 1 ? "one node is asked for; remove the others"
                                                  : "a cluster has at most 65,536 nodes and 1,048,576 devices; lower count");
      }
    }
    return {};
  }

  Result<Node> read_node(const Yaml& yaml, int index) {
    Node node;
    YamlFields fields(yaml, "a node", index);
    int count = 1;
    fields.integer("count", 1, kNodesMax, &count);
    fields.text("name", &node.name);
    fields.text("rack", &node.rack);
    fields.integer("cores", 1, INT_MAX, &node.cores);
    fields.bytes("memory_gib", 0, kGibMax, &node.memory_bytes);
    fields.bytes("memory_free_gib", 0, kGibMax, &node.memory_free);
    const Yaml* devices = fields.list("devices");
    const Yaml* nics = fields.list("nics");
    RETURN_IF_ERROR(fields.finish());
    if (devices != nullptr) {
      for (const Yaml& entry : devices->list) RETURN_IF_ERROR(read_devices(entry, &node));
    }
    if (nics != nullptr) {
      for (const Yaml& entry : nics->list) RETURN_IF_ERROR(read_nics(entry, &node));
    }
    return node;
  }

  // Index of the kind of that name; a known GPU joins the cluster's kinds when it is named first.
  Result<int> kind_index(const std::string& name, int line) {
    const auto described = std::ranges::find(cluster_.kinds, name, &DeviceKind::name);
    if (described != cluster_.kinds.end()) return static_cast<int>(described - cluster_.kinds.begin());
    const DeviceKind* known = find_known_gpu(name);
    if (known == nullptr) return at_line(line, unknown_gpu(name));
    cluster_.kinds.push_back(*known);
    return static_cast<int>(cluster_.kinds.size()) - 1;
  }

  Status read_devices(const Yaml& yaml, Node* node) {
    int count = 1;
    for (int i = 0; i < count; ++i) {
      YamlFields fields(yaml, "a device", i);
      fields.integer("count", 1, kDevicesMax, &count);
      Device device;
      device.line = yaml.line;
      std::string kind;
      fields.text("kind", &kind);
      fields.integer("numa", 0, INT_MAX, &device.numa);
      fields.text("pci", &device.pci);
      fields.integer("nvlink_domain", 0, INT_MAX, &device.nvlink_domain);
      fields.integer("nvlinks_up", 0, INT_MAX, &device.nvlinks_up);
      fields.bytes("memory_free_gib", 0, kGibMax, &device.memory_free);
      RETURN_IF_ERROR(fields.finish());
      if (kind.empty()) return at_line(yaml.line, "a device needs its kind, as in kind: NVIDIA H100");
      ASSIGN_OR_RETURN(device.kind, kind_index(kind, yaml.line));
      node->devices.push_back(std::move(device));
      if (node->devices.size() > static_cast<size_t>(kDevicesMax)) {
        return at_line(yaml.line, "a node has at most 1,024 devices; lower count");
      }
    }
    return {};
  }

  Status read_nics(const Yaml& yaml, Node* node) {
    int count = 1;
    for (int i = 0; i < count; ++i) {
      YamlFields fields(yaml, "a NIC", i);
      fields.integer("count", 1, kNicsMax, &count);
      Nic nic;
      nic.line = yaml.line;
      int network = static_cast<int>(NetworkKind::kTcp);
      fields.text("name", &nic.name);
      fields.choice("network", {"infiniband", "roce", "tcp"}, &network);
      nic.network = static_cast<NetworkKind>(network);
      fields.real("gbit_per_s", 0, kRateMax, 1e9 / 8, &nic.bytes_per_s);
      fields.integer("numa", 0, INT_MAX, &nic.numa);
      fields.integer("rail", 0, INT_MAX, &nic.rail);
      fields.integers("devices", 0, INT_MAX, &nic.devices);
      fields.flag("up", &nic.up);
      RETURN_IF_ERROR(fields.finish());
      node->nics.push_back(std::move(nic));
    }
    return {};
  }

  const size_t nodes_max_;
  Cluster cluster_;
  size_t devices_ = 0;
  std::map<std::string, const Yaml*> templates_;
};

}  // namespace

Result<Cluster> parse_cluster(std::string_view text, int nodes_max) {
  ASSIGN_OR_RETURN(const Yaml yaml, parse_yaml(text));
  return Reader(nodes_max).read(yaml);
}

Result<Cluster> read_cluster_file(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kFileBytesMax));
  Result<Cluster> cluster = parse_cluster(text);
  if (!cluster.ok()) return cluster.status().within(path);
  return cluster;
}

}  // namespace skein
