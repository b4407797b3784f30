#include <algorithm>
#include <cstdio>

#include "coordinator/cli/plan_text.h"
#include "topology/shapes.h"
#include "topology/svg.h"

namespace skein {
namespace {

constexpr double kLeft = 24;
constexpr double kPageWidth = 1120;
constexpr double kPad = 10;
constexpr double kTile = 52;         // with its gap
constexpr double kTileHeight = 44;
constexpr size_t kTilesPerRow = 8;
constexpr size_t kCardsMax = 64;     // of more nodes, each device is a square
constexpr double kSquare = 9;
constexpr size_t kRackNameMax = 14;

constexpr const char* kInk = "#1f2933";
constexpr const char* kFaint = "#616e7c";
constexpr const char* kEdge = "#cbd2d9";
constexpr const char* kFree = "#e4e7eb";
constexpr const char* kColors[] = {"#9fc5e8", "#f9cb9c", "#b6d7a8", "#d5a6bd", "#ffe599", "#b4a7d6",
                                   "#a2d5c6", "#ea9999", "#c9daf8", "#d9c2a6", "#c6e0b4", "#e6b8d8"};

const char* color_of(const Seat& seat) {
  return seat.replica < 0 ? kFree : kColors[static_cast<size_t>(seat.replica) % std::size(kColors)];
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
  return text;
}

class Picture {
 public:
  explicit Picture(const Placement& placement) : placement_(placement), seats_(seats_by_node(placement)) {}

  std::string document() {
    heading();
    placement_.cluster.nodes.size() > kCardsMax ? squares() : cards();
    footing();
    return svg_.document("Plan of " + placement_.cluster.name);
  }

 private:
  bool cores(const Node& node) const {
    return !node.devices.empty() && !kind_of(placement_.cluster, node.devices[0]).gpu;
  }

  void heading() {
    svg_.text(kLeft, y_, placement_.cluster.name, {.size = 20, .color = kInk, .bold = true});
    y_ += 24;
    for (size_t i = 0; i < placement_.plan.models.size(); ++i) {
      const ModelOutcome& outcome = placement_.plan.models[i].outcome;
      svg_.text(kLeft, y_,
                placement_.request.models[i].name + ": " + number(outcome.request_rate) + " requests/s, first token after " +
                    number(outcome.ttft_ms) + " ms, then one every " + number(outcome.itl_ms) + " ms, on " +
                    std::to_string(outcome.devices) + (outcome.devices == 1 ? " device" : " devices"),
                {.size = 13, .color = kFaint});
      y_ += 19;
    }
    y_ += 4;
  }

  void tile(double x, double y, const Seat& seat, const std::string& caption) {
    const SvgBox box{.x = x, .y = y, .width = kTile - 6, .height = kTileHeight};
    svg_.box(box, color_of(seat), seat.replica < 0 ? kEdge : kFaint, 5, seat.replica < 0);
    const SvgText small{.size = 9, .color = kFaint, .anchor = "middle"};
    svg_.text(box.middle(), y + 11, caption, small);
    if (seat.replica < 0) return;
    const PlacedReplica& replica = placement_.plan.replicas[static_cast<size_t>(seat.replica)];
    svg_.text(box.middle(), y + 25, "R" + std::to_string(seat.replica),
              {.size = 12, .color = kInk, .anchor = "middle", .bold = true});
    const int stage = seat.rank / replica.tensor_parallel_size;
    const int rank = seat.rank % replica.tensor_parallel_size;
    std::string part;
    if (replica.pipeline_parallel_size > 1) part = "s" + std::to_string(stage);
    if (replica.tensor_parallel_size > 1) part += (part.empty() ? "t" : " t") + std::to_string(rank);
    svg_.text(box.middle(), y + 38, part, {.size = 10, .color = kInk, .anchor = "middle"});
  }

  void card(double x, double y, const Node& node, const std::vector<Seat>& seats, double width, double height) {
    svg_.box({.x = x, .y = y, .width = width, .height = height}, "#f5f7fa", kEdge);
    svg_.text(x + kPad, y + 18, node.name + (node.rack.empty() ? "" : ", rack " + node.rack),
              {.size = 12, .color = kInk, .bold = true});
    const size_t count = tiles_of(node);
    for (size_t i = 0; i < count; ++i) {
      const size_t row = i / kTilesPerRow;
      const std::string caption =
          cores(node) ? std::to_string(node.devices.size() / count) + " cores" : "GPU " + std::to_string(i);
      tile(x + kPad + static_cast<double>(i % kTilesPerRow) * kTile,
           y + 26 + static_cast<double>(row) * (kTileHeight + 6), seats[i * seats.size() / count], caption);
    }
  }

  // GPUs, or the ranks of a node of cores.
  size_t tiles_of(const Node& node) const {
    const size_t devices = node.devices.size();
    return cores(node) ? static_cast<size_t>(ranks_of_cores(placement_.request, devices)) : devices;
  }

  void cards() {
    double x = kLeft;
    double row_height = 0;
    for (size_t i = 0; i < placement_.cluster.nodes.size(); ++i) {
      const Node& node = placement_.cluster.nodes[i];
      const size_t tiles = std::max<size_t>(tiles_of(node), 1);
      const double width = std::max(130.0, 2 * kPad - 6 + kTile * static_cast<double>(std::min(tiles, kTilesPerRow)));
      const size_t rows = (tiles + kTilesPerRow - 1) / kTilesPerRow;
      const double height = 30 + static_cast<double>(rows) * (kTileHeight + 6);
      if (x > kLeft && x + width > kPageWidth) {
        x = kLeft;
        y_ += row_height + 12;
        row_height = 0;
      }
      card(x, y_, node, seats_[i], width, height);
      x += width + 12;
      row_height = std::max(row_height, height);
    }
    y_ += row_height + 24;
  }

  // A column of squares for each node, a row of columns for each rack.
  void squares() {
    const std::vector<Node>& nodes = placement_.cluster.nodes;
    const double first = kLeft + 110;
    for (size_t i = 0; i < nodes.size();) {
      size_t end = i;
      size_t tallest = 1;
      for (; end < nodes.size() && nodes[end].rack == nodes[i].rack; ++end) {
        tallest = std::max(tallest, nodes[end].devices.size());
      }
      svg_.text(kLeft, y_ + 10, "rack " + nodes[i].rack.substr(0, kRackNameMax), {.size = 10, .color = kFaint});
      double x = first;
      for (; i < end; ++i) {
        if (x + kSquare > kPageWidth) {
          x = first;
          y_ += static_cast<double>(tallest) * kSquare + 6;
        }
        for (size_t device = 0; device < nodes[i].devices.size(); ++device) {
          const double y = y_ + static_cast<double>(device) * kSquare;
          svg_.box({.x = x, .y = y, .width = kSquare - 1, .height = kSquare - 1}, color_of(seats_[i][device]), "none", 1);
        }
        x += kSquare + 3;
      }
      y_ += static_cast<double>(tallest) * kSquare + 8;
    }
    y_ += 12;
  }

  void footing() {
    std::vector<std::pair<std::string, int>> shapes;
    for (const PlacedReplica& replica : placement_.plan.replicas) {
      const ModelDemand& model = placement_.request.models[static_cast<size_t>(replica.model)];
      const std::string text = model.name + " as " + shape_text(replica);
      auto at = std::ranges::find(shapes, text, &std::pair<std::string, int>::first);
      if (at == shapes.end()) at = shapes.insert(at, {text, 0});
      ++at->second;
    }
    const SvgText style{.size = 12, .color = kFaint};
    for (const auto& [text, count] : shapes) {
      svg_.text(kLeft, y_, std::to_string(count) + (count == 1 ? " replica of " : " replicas of ") + text, style);
      y_ += 17;
    }
    if (!placement_.plan.left_over.empty()) {
      svg_.text(kLeft, y_, std::to_string(placement_.plan.left_over.size()) + " devices left over (grey)", style);
      y_ += 17;
    }
    svg_.text(kLeft, y_, "R: replica, s: pipeline stage, t: tensor-parallel rank", style);
  }

  const Placement& placement_;
  const std::vector<std::vector<Seat>> seats_;
  Svg svg_;
  double y_ = 40;
};

}  // namespace

std::string plan_svg(const Placement& placement) { return Picture(placement).document(); }

}  // namespace skein
