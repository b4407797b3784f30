#include "coordinator/control/node_look.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/json.h"
#include "comm/wire.h"

namespace skein {
namespace {

constexpr timespec kPeriod{.tv_sec = 2, .tv_nsec = 0};

bool take_integer(const Json& json, const char* key, int64_t least, int64_t most, int64_t* to) {
  const Json* value = json.find(key);
  if (value == nullptr || !value->is_int() || value->as_int() < least || value->as_int() > most) return false;
  *to = value->as_int();
  return true;
}

Result<Gpu> parse_gpu(const Json& json) {
  Gpu gpu;
  int64_t major = 0;
  int64_t minor = 0;
  const Json* name = json.find("name");
  const Json* uuid = json.find("uuid");
  if (name == nullptr || !name->is_string() || uuid == nullptr || !uuid->is_string() ||
      !take_integer(json, "total", 0, INT64_MAX, &gpu.memory_total) ||
      !take_integer(json, "free", 0, gpu.memory_total, &gpu.memory_free) ||
      !take_integer(json, "major", 0, 1000, &major) || !take_integer(json, "minor", 0, 1000, &minor)) {
    return corrupt("a look at a GPU is incomplete");
  }
  gpu.name = name->as_string();
  gpu.uuid = uuid->as_string();
  gpu.compute_major = static_cast<int>(major);
  gpu.compute_minor = static_cast<int>(minor);
  return gpu;
}

Status write_line(std::string_view kind, const std::string& text) {
  std::string line(kind);
  line += text + "\n";
  for (size_t at = 0; at < line.size();) {
    const ssize_t written = write(STDOUT_FILENO, line.data() + at, line.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return unavailable(std::string("cannot write: ") + std::strerror(errno));
    at += static_cast<size_t>(written);
  }
  return {};
}

}  // namespace

std::string to_text(const NodeLook& look) {
  Json gpus = Json::array();
  for (const Gpu& gpu : look.gpus) {
    gpus.push_back(Json::Object{{"name", gpu.name},
                                {"uuid", gpu.uuid},
                                {"total", gpu.memory_total},
                                {"free", gpu.memory_free},
                                {"major", gpu.compute_major},
                                {"minor", gpu.compute_minor}});
  }
  return Json(Json::Object{{"begun_ns", look.begun_ns}, {"gpus", std::move(gpus)}}).dump();
}

Result<NodeLook> parse_node_look(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, parse_json(text, {.bytes_max = kNodeReportBytesMax}));
  NodeLook look;
  const Json* gpus = json.find("gpus");
  if (!take_integer(json, "begun_ns", 0, INT64_MAX, &look.begun_ns) || gpus == nullptr || !gpus->is_array() ||
      gpus->as_array().size() > kNodeDevicesMax) {
    return corrupt("a look at a node is incomplete");
  }
  for (const Json& gpu : gpus->as_array()) {
    ASSIGN_OR_RETURN(look.gpus.emplace_back(), parse_gpu(gpu));
  }
  return look;
}

Status run_look(const std::string& name, const std::string& interface) {
  sigset_t asked;
  sigemptyset(&asked);
  sigaddset(&asked, kLookSignal);
  sigprocmask(SIG_BLOCK, &asked, nullptr);
  const NodeReport report = report_node(name, {.name = interface, .address = {}});
  RETURN_IF_ERROR(write_line(kDescriptionLine, to_text(report)));
  const GpuWatch gpus;
  for (;;) {
    using std::chrono::nanoseconds, std::chrono::steady_clock;
    const nanoseconds begun = steady_clock::now().time_since_epoch();
    RETURN_IF_ERROR(write_line(kLookLine, to_text(NodeLook{.begun_ns = begun.count(), .gpus = gpus.look()})));
    sigtimedwait(&asked, nullptr, &kPeriod);
  }
}

}  // namespace skein
