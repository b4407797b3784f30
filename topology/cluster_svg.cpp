#include "topology/cluster_svg.h"

#include <algorithm>
#include <map>

#include "topology/memory.h"
#include "topology/node_types.h"
#include "topology/svg.h"

namespace skein {
namespace {

constexpr double kLeft = 24;
constexpr double kTileWidth = 92;
constexpr double kTileHeight = 58;
constexpr double kCoreSize = 34;
constexpr double kGap = 10;
constexpr double kPad = 14;
constexpr double kNicHeight = 44;
constexpr double kBarHeight = 20;
constexpr size_t kTileNameMax = 10;
constexpr size_t kNamedNodesMax = 64;  // more are squares without names
constexpr double kPageWidth = 1028;
constexpr size_t kCoresPerRow = 16;

constexpr const char* kInk = "#1f2933";
constexpr const char* kFaint = "#616e7c";
constexpr const char* kCard = "#f5f7fa";
constexpr const char* kEdge = "#cbd2d9";
constexpr const char* kNvlink = "#76b900";
constexpr const char* kBroken = "#d64545";

struct Shade {
  const char* fill;
  const char* edge;
};
constexpr Shade kKinds[] = {{"#dceefb", "#2680c2"}, {"#e3f9e5", "#3f9142"}, {"#fff3c4", "#cb6e17"},
                            {"#ffe3ec", "#bc0a6f"}, {"#e0e8f9", "#4055a8"}, {"#eae2f8", "#653cad"}};
constexpr Shade kNetworks[] = {{"#eae2f8", "#653cad"}, {"#c6f7e2", "#27ab83"}, {"#e4e7eb", "#7b8794"}};

Shade shade_of_kind(int kind) { return kKinds[static_cast<size_t>(kind) % std::size(kKinds)]; }

// "NVIDIA H100 80GB HBM3" is "H100" on a tile, "NVIDIA A100-SXM4-80GB" is "A100-SXM4".
std::string tile_name(const std::string& kind) {
  std::string name = kind.starts_with("NVIDIA ") ? kind.substr(7) : kind;
  if (name.size() <= kTileNameMax) return name;
  const std::string model = name.substr(0, name.find(' '));
  return model.size() <= kTileNameMax ? model : model.substr(0, model.find('-', model.find('-') + 1));
}

// One type of node, from (x, y) on.
class Card {
 public:
  Card(const Cluster& cluster, const NodeType& type, Svg* svg)
      : cluster_(cluster), type_(type), index_(type.nodes.front()), node_(cluster.nodes[static_cast<size_t>(index_)]),
        svg_(*svg) {
    for (size_t i = 0; i < node_.devices.size(); ++i) {
      sockets_[node_.devices[i].numa].devices.push_back(i);
      gpus_ |= kind_of(cluster_, node_.devices[i]).gpu;
      linked_ |= node_.devices[i].nvlink_domain >= 0;
    }
    for (size_t i = 0; i < node_.nics.size(); ++i) {
      const Nic& nic = node_.nics[i];
      const bool beside = nic.devices.size() == 1 && nic.network != NetworkKind::kTcp;
      auto& row = beside ? beside_[nic.devices.front()] : sockets_[nic.numa].nics;
      row.push_back(i);
    }
  }

  // Its bottom.
  double draw(double y) {
    double width = kPad;
    for (auto& [numa, socket] : sockets_) width += socket_width(socket) + kPad;
    const double top = y + 54 + (linked_ ? kBarHeight + 16 : 0);
    double bottom = top;
    for (const auto& [numa, socket] : sockets_) bottom = std::max(bottom, top + socket_height(socket));
    const SvgBox card{kLeft, y, std::max(width, 420.0), bottom + kPad - y};
    svg_.box(card, kCard, kEdge, 10);
    const std::string title = (type_.nodes.size() > 1 || cluster_.nodes.size() > 1 ? type_.label + " · " : "") +
                              names_of(cluster_, type_.nodes);
    svg_.text(card.x + kPad, y + 24, title, {.size = 16, .bold = true});
    svg_.text(card.x + kPad, y + 42, std::to_string(node_.cores) + " cores, " + readable_bytes(node_.memory_bytes),
              {.color = kFaint});
    double x = card.x + kPad;
    for (const auto& [numa, socket] : sockets_) {
      draw_socket(numa, socket, {x, top, socket_width(socket), bottom - top});
      x += socket_width(socket) + kPad;
    }
    draw_nvlink(y + 54);
    return card.bottom();
  }

 private:
  struct Socket {
    std::vector<size_t> devices;
    std::vector<size_t> nics;  // that stand beside no single device
  };

  double socket_width(const Socket& socket) const {
    const size_t tiles = std::max<size_t>(gpus_ ? socket.devices.size() : 0, socket.nics.size());
    const double cores = gpus_ ? 0 : static_cast<double>(std::min(kCoresPerRow, socket.devices.size()));
    const double inner = std::max({static_cast<double>(tiles) * (kTileWidth + kGap), cores * (kCoreSize + 4), 150.0});
    return inner + kGap;
  }

  double devices_height(const Socket& socket) const {
    if (socket.devices.empty()) return 0;
    if (gpus_) return kTileHeight;
    const size_t rows = (socket.devices.size() + kCoresPerRow - 1) / kCoresPerRow;
    return static_cast<double>(rows) * (kCoreSize + 4);
  }

  double socket_height(const Socket& socket) const {
    const double beside = beside_.empty() ? 0 : kNicHeight + 16;
    return kPad + devices_height(socket) + beside + (socket.nics.empty() ? 0 : kNicHeight + kGap) + 26;
  }

  void draw_socket(int numa, const Socket& socket, const SvgBox& area) {
    svg_.box(area, "#ffffff", kEdge, 8);
    svg_.text(area.x + kGap, area.bottom() - 9, numa >= 0 ? "NUMA " + std::to_string(numa) : "one memory",
              {.size = 11, .color = kFaint});
    double x = area.x + kGap;
    double y = area.y + kPad;
    for (size_t i = 0; i < socket.devices.size(); ++i) {
      if (gpus_) {
        draw_gpu(socket.devices[i], {x, y, kTileWidth, kTileHeight});
        x += kTileWidth + kGap;
      } else {
        const size_t column = i % kCoresPerRow;
        const size_t row = i / kCoresPerRow;
        draw_core(socket.devices[i], {x + static_cast<double>(column) * (kCoreSize + 4),
                                      y + static_cast<double>(row) * (kCoreSize + 4), kCoreSize, kCoreSize});
      }
    }
    y += devices_height(socket) + (beside_.empty() ? 0 : kNicHeight + 16) + kGap;
    x = area.x + kGap;
    for (const size_t nic : socket.nics) {
      draw_nic(node_.nics[nic], {x, y, kTileWidth, kNicHeight});
      x += kTileWidth + kGap;
    }
  }

  void draw_gpu(size_t index, const SvgBox& tile) {
    const Device& device = node_.devices[index];
    const DeviceKind& kind = kind_of(cluster_, device);
    const Shade shade = shade_of_kind(device.kind);
    tiles_[index] = tile;
    svg_.box(tile, shade.fill, shade.edge);
    svg_.text(tile.middle(), tile.y + 17, "gpu" + std::to_string(index), {.size = 11, .color = kFaint, .anchor = "middle"});
    svg_.text(tile.middle(), tile.y + 34, tile_name(kind.name), {.size = 13, .anchor = "middle", .bold = true});
    svg_.text(tile.middle(), tile.y + 50, readable_bytes(kind.memory_bytes), {.size = 11, .anchor = "middle"});
    const auto beside = beside_.find(static_cast<int>(index));
    if (beside == beside_.end()) return;
    const SvgBox nic{tile.x, tile.bottom() + 16, tile.width, kNicHeight};
    svg_.line(tile.middle(), tile.bottom(), tile.middle(), nic.y, kFaint);
    draw_nic(node_.nics[beside->second.front()], nic);
  }

  void draw_core(size_t index, const SvgBox& tile) {
    const Shade shade = shade_of_kind(node_.devices[index].kind);
    svg_.box(tile, shade.fill, shade.edge, 4);
    svg_.text(tile.middle(), tile.y + 22, std::to_string(index), {.size = 12, .anchor = "middle"});
  }

  void draw_nic(const Nic& nic, const SvgBox& tile) {
    const Shade shade = kNetworks[static_cast<size_t>(nic.network)];
    svg_.box(tile, nic.up ? shade.fill : "#ffffff", nic.up ? shade.edge : kBroken, 6, !nic.up);
    svg_.text(tile.middle(), tile.y + 15, nic.name, {.size = 11, .anchor = "middle", .bold = true});
    svg_.text(tile.middle(), tile.y + 27, nic.up ? readable_gbit(nic.bytes_per_s) : "down",
              {.size = 10, .color = nic.up ? kInk : kBroken, .anchor = "middle"});
    const std::string rail = nic.rail >= 0 ? ", rail " + std::to_string(nic.rail) : "";
    svg_.text(tile.middle(), tile.y + 39, name(nic.network) + rail, {.size = 9, .color = kFaint, .anchor = "middle"});
  }

  // A bar over each domain, with a line to each of its devices.
  void draw_nvlink(double y) {
    std::map<int, std::vector<size_t>> domains;
    for (size_t i = 0; i < node_.devices.size(); ++i) {
      if (node_.devices[i].nvlink_domain >= 0) domains[node_.devices[i].nvlink_domain].push_back(i);
    }
    for (const auto& [domain, devices] : domains) {
      const SvgBox first = tiles_[devices.front()];
      const SvgBox last = tiles_[devices.back()];
      const SvgBox bar{first.x, y, last.right() - first.x, kBarHeight};
      for (const size_t device : devices) {
        const SvgBox tile = tiles_[device];
        const bool whole = node_.devices[device].nvlinks_up < 0 ||
                           node_.devices[device].nvlinks_up >= kind_of(cluster_, node_.devices[device]).nvlinks;
        svg_.line(tile.middle(), bar.bottom(), tile.middle(), tile.y, whole ? kNvlink : kBroken, 3);
      }
      svg_.box(bar, kNvlink, "none", 5);
      const auto path = path_between(cluster_, {index_, static_cast<int>(devices[0])},
                                     {index_, static_cast<int>(devices[1])});
      svg_.text(bar.middle(), y + 14, "NVLink, " + readable_rate(path->bytes_per_s) + " each way",
                {.size = 11, .color = "#ffffff", .anchor = "middle", .bold = true});
    }
  }

  const Cluster& cluster_;
  const NodeType& type_;
  const int index_;
  const Node& node_;
  Svg& svg_;
  std::map<int, Socket> sockets_;
  std::map<int, std::vector<size_t>> beside_;  // by device, the NICs
  std::map<size_t, SvgBox> tiles_;
  bool gpus_ = false;
  bool linked_ = false;
};

// Who sits in which rack.
class Racks {
 public:
  Racks(const Cluster& cluster, const std::vector<NodeType>& types, Svg* svg)
      : cluster_(cluster), types_(types), svg_(*svg) {
    for (size_t type = 0; type < types.size(); ++type) {
      for (const int node : types[type].nodes) type_of_[node] = type;
    }
    for (size_t i = 0; i < cluster.nodes.size(); ++i) {
      std::vector<int>& nodes = nodes_[cluster.nodes[i].rack];
      if (nodes.empty()) order_.push_back(cluster.nodes[i].rack);
      nodes.push_back(static_cast<int>(i));
    }
  }

  void draw(double y) {
    const SvgBox spine{kLeft, y, kPageWidth, 26};
    const double over = cluster_.fabric.oversubscription;
    svg_.box(spine, "#323f4b", "none", 6);
    svg_.text(spine.middle(), y + 17,
              over > 1 ? "spine, oversubscribed " + short_number(over) + " to 1" : std::string("network without oversubscription"),
              {.color = "#ffffff", .anchor = "middle", .bold = true});
    double x = kLeft;
    y = spine.bottom() + 14;
    double row_bottom = y;
    for (const std::string& rack : order_) {
      const SvgBox size = rack_size(nodes_[rack].size());
      if (x > kLeft && x + size.width > kLeft + kPageWidth) {
        x = kLeft;
        y = row_bottom + 12;
      }
      draw_rack(rack, {x, y, size.width, size.height});
      row_bottom = std::max(row_bottom, y + size.height);
      x += size.width + 12;
    }
  }

 private:
  bool named() const { return cluster_.nodes.size() <= kNamedNodesMax; }
  double tile_width() const { return named() ? 86 : 14; }
  double tile_height() const { return named() ? 24 : 14; }
  size_t columns(size_t nodes) const { return std::min<size_t>(nodes, named() ? 2 : 8); }

  SvgBox rack_size(size_t nodes) const {
    const size_t rows = (nodes + columns(nodes) - 1) / columns(nodes);
    return {0, 0, std::max(2 * kGap - 4 + static_cast<double>(columns(nodes)) * (tile_width() + 4), 100.0),
            34 + static_cast<double>(rows) * (tile_height() + 4)};
  }

  void draw_rack(const std::string& rack, const SvgBox& area) {
    svg_.box(area, kCard, kEdge, 8);
    svg_.text(area.x + kGap, area.y + 18, rack.empty() ? "no rack" : rack, {.size = 12, .bold = true});
    const std::vector<int>& nodes = nodes_[rack];
    for (size_t i = 0; i < nodes.size(); ++i) {
      const size_t column = i % columns(nodes.size());
      const size_t row = i / columns(nodes.size());
      const SvgBox tile{area.x + kGap + static_cast<double>(column) * (tile_width() + 4),
                        area.y + 26 + static_cast<double>(row) * (tile_height() + 4), tile_width(), tile_height()};
      const Node& node = cluster_.nodes[static_cast<size_t>(nodes[i])];
      const Shade shade = node.devices.empty() ? Shade{"#ffffff", kEdge} : shade_of_kind(node.devices.front().kind);
      svg_.box(tile, shade.fill, shade.edge, 3);
      if (named()) {
        svg_.text(tile.middle(), tile.y + 16, types_[type_of_[nodes[i]]].label + "  " + node.name,
                  {.size = 11, .anchor = "middle"});
      }
    }
  }

  const Cluster& cluster_;
  const std::vector<NodeType>& types_;
  Svg& svg_;
  std::map<int, size_t> type_of_;
  std::vector<std::string> order_;
  std::map<std::string, std::vector<int>> nodes_;
};

}  // namespace

std::string to_svg(const Cluster& cluster) {
  const std::vector<NodeType> types = node_types(cluster);
  Svg svg;
  const std::string title = cluster.name.empty() ? "cluster" : cluster.name;
  svg.text(kLeft, 38, title, {.size = 22, .bold = true});
  std::map<int, size_t> devices;
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) ++devices[device.kind];
  }
  double y = 60;
  for (const auto& [index, count] : devices) {
    const DeviceKind& kind = cluster.kinds[static_cast<size_t>(index)];
    const Shade shade = shade_of_kind(index);
    svg.box({kLeft, y - 10, 12, 12}, shade.fill, shade.edge, 3);
    svg.text(kLeft + 20, y,
             std::to_string(count) + (kind.gpu ? " x " : " cores of ") + kind.name + ": reads " +
                 readable_rate(kind.read_bytes_per_s) + ", " + readable_flops(kind.bf16_flops) + (kind.gpu ? "" : " a core"),
             {.color = kFaint});
    y += 20;
  }
  for (const NodeType& type : types) y = Card(cluster, type, &svg).draw(y + 2) + 14;
  if (cluster.nodes.size() > 1) Racks(cluster, types, &svg).draw(y + 4);
  return svg.document(title);
}

}  // namespace skein
