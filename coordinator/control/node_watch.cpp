#include "coordinator/control/node_watch.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/clock.h"
#include "base/host_memory.h"
#include "base/log.h"
#include "topology/memory.h"

namespace skein {
namespace {

constexpr auto kRestartPeriod = std::chrono::seconds(1);
constexpr auto kRestartPeriodMax = std::chrono::seconds(30);  // while the system has no process or descriptor left
constexpr int kStartPatience = 4;
constexpr int kPollMs = 100;
constexpr size_t kLineBytesMax = kNodeReportBytesMax + 64;  // a report, and the word before it

int64_t nanoseconds(NodeWatch::Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

std::vector<std::string> uuids_of(const NodeLook& look) {
  std::vector<std::string> uuids;
  for (const Gpu& gpu : look.gpus) uuids.push_back(gpu.uuid);
  return uuids;
}

}  // namespace

LaunchShare share_of(const ReplicaSpec& spec, const std::string& node) {
  LaunchShare share{.gpus = spec.device == "cuda"};
  const std::vector<int64_t>& bytes = spec.rank_memory_bytes;
  for (size_t rank = 0; rank < spec.places.size(); ++rank) {
    if (spec.places[rank].node != node) continue;
    share.devices.push_back(static_cast<uint32_t>(spec.places[rank].device));
    if (!bytes.empty()) share.device_bytes.push_back(static_cast<uint64_t>(bytes[rank]));
  }
  return share;
}

Status check_share(const LaunchShare& share, const std::vector<Gpu>& gpus) {
  if (!share.gpus) return {};
  if (gpus.empty()) return unsupported("it has no NVIDIA GPU with a driver: use --device cpu, or other places");
  for (size_t i = 0; i < share.devices.size(); ++i) {
    const uint32_t device = share.devices[i];
    const uint64_t needed = share.device_bytes.empty() ? 0 : share.device_bytes[i];
    const std::string what = "GPU " + std::to_string(device);
    if (device >= gpus.size()) {
      return unsupported("there is no " + what + ", for it has " + std::to_string(gpus.size()) +
                         ", counted from 0: correct places");
    }
    const Gpu& gpu = gpus[device];
    if (!gpu.supported()) {
      return unsupported("its " + what + " (" + gpu.name + ") has compute capability " +
                         std::to_string(gpu.compute_major) + "." + std::to_string(gpu.compute_minor) +
                         ", and the CUDA backend needs 9.0 (H100, H200, GH200): use other places");
    }
    if (static_cast<uint64_t>(gpu.memory_free) < needed) {
      return resource_exhausted("its " + what + " has " + readable_bytes(gpu.memory_free) + " free of " +
                                readable_bytes(gpu.memory_total) + " where a rank needs " +
                                readable_bytes(static_cast<int64_t>(needed)) +
                                ": end what else runs there, or place it elsewhere");
    }
  }
  return {};
}

std::string silent_driver(uint32_t seconds) {
  return "its GPU driver has not answered for " + std::to_string(seconds) +
         " s: is a GPU lost? nvidia-smi and the kernel's log of that node may tell";
}

NodeWatch::NodeWatch(std::string name, std::string interface, double driver_seconds)
    : name_(std::move(name)),
      interface_(std::move(interface)),
      patience_(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(driver_seconds))),
      lines_{.line_bytes_max = kLineBytesMax} {}

void NodeWatch::start(Clock::time_point now) {
  started_ = now;
  looked_ = false;
  const Result<ChildProcess> child = start_process(
      {.arguments = {program_folder() + "/skein", "look", name_, interface_}, .environment = {}, .capture_error = true});
  if (!child.ok()) {
    if (restart_period_ == kRestartPeriod) {
      log_warning("agent: cannot look at the node", {{"cause", child.status().message()}});
    }
    restart_period_ = std::min<Clock::duration>(2 * restart_period_, kRestartPeriodMax);
    return;
  }
  restart_period_ = kRestartPeriod;
  child_ = child->pid;
  lines_.fd = child->error_fd;
}

void NodeWatch::ended() {
  child_ = -1;
  while (const std::optional<std::string> line = lines_.next()) take(*line, Clock::now());
  if (lines_.fd >= 0) close(lines_.fd);
  lines_.fd = -1;
  lines_.text.clear();  // half a line is none, and another child's does not go on with it
}

std::string NodeWatch::describe() {
  Clock::time_point now = Clock::now();
  answers_.heard(milliseconds(now));
  start(now);
  while (!description_ && lines_.fd >= 0 && silent_seconds(now) == 0) {
    pollfd readable{.fd = lines_.fd, .events = POLLIN, .revents = 0};
    poll(&readable, 1, kPollMs);
    now = Clock::now();
    while (const std::optional<std::string> line = lines_.next()) take(*line, now);
  }
  if (description_) return *std::exchange(description_, std::nullopt);
  const std::string why = lines_.fd < 0 ? "looking at it failed" : silent_driver(silent_seconds(now));
  return to_text(NodeReport{.cluster = std::nullopt, .findings = {"its hardware cannot be described: " + why}});
}

std::optional<std::string> NodeWatch::turn(Clock::time_point now) {
  while (const std::optional<std::string> line = lines_.next()) take(*line, now);
  const uint32_t silent = silent_seconds(now);
  if (silent > 0 && !std::exchange(complained_, true)) log_warning("agent: " + silent_driver(silent));
  // To start, a driver that keeps its GPUs asleep takes seconds for each of them: killed too soon, it never would.
  const Clock::duration patience = looked_ ? patience_ : kStartPatience * patience_;
  if (silent > 0 && child_ > 0 && now - started_ > patience) kill(child_, SIGKILL);
  if (child_ < 0 && now - started_ > restart_period_) start(now);
  return std::exchange(description_, std::nullopt);
}

void NodeWatch::take(std::string_view line, Clock::time_point now) {
  if (line.starts_with(kDescriptionLine)) {
    description_ = line.substr(kDescriptionLine.size());
  } else if (line.starts_with(kLookLine)) {
    Result<NodeLook> look = parse_node_look(line.substr(kLookLine.size()));
    if (!look.ok()) return log_warning("agent: a look is dropped", {{"cause", look.status().message()}});
    look_ = std::move(*look);
    looked_ = true;
    if (gpus_.empty()) gpus_ = uuids_of(*look_);
  } else {
    return log_warning("agent: a look at the node says", {{"words", line}});
  }
  answers_.heard(milliseconds(now));
  if (std::exchange(complained_, false)) log_info("agent: the GPU driver answers again");
}

// 0: it answers, or there is none, for no look has shown a GPU.
uint32_t NodeWatch::silent_seconds(Clock::time_point now) {
  const std::chrono::milliseconds silent(answers_.silent_ms(milliseconds(now)));
  if (silent <= patience_ || (look_ && gpus_.empty())) return 0;
  return static_cast<uint32_t>(std::chrono::ceil<std::chrono::seconds>(silent).count());
}

void NodeWatch::tell(Clock::time_point now, AgentStatus* status) {
  status->memory_free = static_cast<uint64_t>(host_memory().available);
  status->driver_silent_s = silent_seconds(now);
  if (!look_ || status->driver_silent_s > 0) return;
  for (const Gpu& gpu : look_->gpus) status->gpu_memory_free.push_back(static_cast<uint64_t>(gpu.memory_free));
}

void NodeWatch::ask() const {
  if (child_ > 0 && looked_) kill(child_, kLookSignal);  // before its first look it does not wait for one
}

bool NodeWatch::knows(Clock::time_point asked, Clock::time_point now) {
  return silent_seconds(now) > 0 || (look_ && (look_->begun_ns >= nanoseconds(asked) || gpus_.empty()));
}

Status NodeWatch::check(const LaunchShare& share, Clock::time_point now) {
  if (!share.gpus) return {};
  if (std::getenv("CUDA_VISIBLE_DEVICES") != nullptr) {
    return unsupported("its agent has CUDA_VISIBLE_DEVICES set, and places count all GPUs of the node: unset it");
  }
  if (const uint32_t silent = silent_seconds(now); silent > 0) return unavailable(silent_driver(silent));
  if (look_ && look_->gpus.size() != gpus_.size()) {
    return unavailable("its driver shows " + std::to_string(look_->gpus.size()) + " GPUs where it showed " +
                       std::to_string(gpus_.size()) +
                       ": one is lost or has come back, and others may be counted otherwise; restart the node, or its agent");
  }
  if (look_ && uuids_of(*look_) != gpus_) {
    return unavailable("its driver counts other GPUs, or in another order, than it did: restart the node, or its agent");
  }
  return check_share(share, look_ ? look_->gpus : std::vector<Gpu>());
}

}  // namespace skein
