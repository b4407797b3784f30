#include "worker/preflight.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "base/clock.h"
#include "base/host_memory.h"
#include "base/json.h"

namespace skein {
namespace {

constexpr int64_t kClockMsMax = 10'000;  // on a busy machine ranks read theirs some seconds apart

std::string proc_file(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Of one kernel, and of one mount of the memory that ranks would share.
std::string host_identity() {
  struct stat shared {};
  stat("/dev/shm", &shared);
  std::string boot = proc_file("/proc/sys/kernel/random/boot_id");
  if (!boot.empty() && boot.back() == '\n') boot.pop_back();
  return boot + "/" + std::to_string(shared.st_dev) + "/" + std::to_string(shared.st_ino);
}

std::string gigabytes(int64_t bytes) {
  const int64_t tenths = bytes / 100'000'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GB";
}

Status failure(std::string message) { return Status(Code::kUnavailable, std::move(message), Scope::kReplica); }

// On GPUs the agents have compared theirs.
Status compare_memory(const ReplicaSpec& spec, const std::vector<RankReport>& reports) {
  if (spec.device != "cpu") return {};
  if (spec.rank_memory_bytes.empty()) return {};
  struct Host {
    int ranks = 0;
    int64_t needed = 0;
  };
  std::map<std::string, Host> hosts;
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    Host& host = hosts[reports[rank].host];
    ++host.ranks;
    host.needed += spec.rank_memory_bytes[rank];
  }
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    const auto& [ranks, needed] = hosts[reports[rank].host];
    if (reports[rank].memory_free >= needed) continue;
    return Status(Code::kResourceExhausted,
                  "the machine of " + name_of_rank(spec, static_cast<int>(rank)) + " has " +
                      gigabytes(reports[rank].memory_free) + " of memory free where its " + std::to_string(ranks) +
                      " ranks need " + gigabytes(needed) + ": lower kv-cache-memory-bytes, or place fewer ranks there",
                  Scope::kReplica);
  }
  return {};
}

// NCCL falls back to TCP on all nodes where one of them has nothing else.
Status compare_networks(const ReplicaSpec& spec, const std::vector<RankReport>& reports) {
  if (spec.device != "cuda") return {};
  const auto has = std::ranges::find_if(reports, &RankReport::rdma);
  const auto lacks = std::ranges::find_if_not(reports, &RankReport::rdma);
  if (has == reports.end() || lacks == reports.end()) return {};
  const auto name = [&](auto report) { return name_of_rank(spec, static_cast<int>(report - reports.begin())); };
  return failure(name(has) + " has an InfiniBand or RoCE port that is up and " + name(lacks) +
                 " has none that programs may use, so that NCCL would take TCP for both: look at the links and at "
                 "/dev/infiniband there (load ib_uverbs), or set NCCL_IB_DISABLE=1 for the agents");
}

std::vector<std::filesystem::path> entries(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) found.push_back(entry.path());
  return found;
}

}  // namespace

bool rdma_usable(const std::string& sys, const std::string& dev) {
  const char* setting = std::getenv("NCCL_IB_DISABLE");
  const std::string_view off = setting == nullptr ? "0" : setting;
  if (!off.empty() && off != "0") return false;
  const auto is_verbs = [](const auto& path) { return path.filename().string().starts_with("uverbs"); };
  if (std::ranges::none_of(entries(dev + "/infiniband"), is_verbs)) return false;
  for (const auto& device : entries(sys + "/class/infiniband")) {
    for (const auto& port : entries(device / "ports")) {
      std::string number, state;  // "4: ACTIVE"
      std::ifstream(port / "state") >> number >> state;
      if (state == "ACTIVE") return true;
    }
  }
  return false;
}

bool on_one_host(const std::vector<RankReport>& reports) {
  return std::ranges::all_of(reports, [&](const RankReport& report) { return report.host == reports[0].host; });
}

std::string transport_of(const ReplicaSpec& spec, const std::vector<RankReport>& reports, bool peers) {
  const bool one_host = on_one_host(reports);
  if (spec.device != "cuda" || reports.size() == 1) return one_host ? "shared memory" : "TCP over " + spec.network;
  const std::string sums = peers ? "peer memory, " : "";
  if (one_host) return sums + "NCCL in one machine";
  return sums + (reports[0].rdma ? "NCCL over InfiniBand or RoCE" : "NCCL over TCP");
}

RankReport look_around() {
  return {.build = SKEIN_BUILD,
          .host = host_identity(),
          .fingerprint = 0,
          .memory_free = host_memory().available,
          .clock_ms = unix_ms(),
          .rdma = rdma_usable("/sys", "/dev"),
          .error = {}};
}

int64_t own_memory() { return proc_bytes("/proc/self/status", "RssAnon:"); }

std::string encode(const RankReport& report) {
  Json json = Json::object();
  json.set("build", report.build);
  json.set("host", report.host);
  json.set("fingerprint", std::to_string(report.fingerprint));
  json.set("memory_free", report.memory_free);
  json.set("clock_ms", report.clock_ms);
  json.set("rdma", static_cast<int64_t>(report.rdma));
  json.set("error", report.error);
  return json.dump();
}

Result<RankReport> decode_rank_report(std::string_view bytes) {
  const Result<Json> json = parse_json(bytes);
  RankReport report;
  bool good = json.ok();
  const auto text = [&](const char* key, std::string* to) {
    const Json* field = good ? json->find(key) : nullptr;
    good = field != nullptr && field->is_string();
    if (good) *to = field->as_string();
  };
  const auto number = [&](const char* key, int64_t* to) {
    const Json* field = good ? json->find(key) : nullptr;
    good = field != nullptr && field->is_int();
    if (good) *to = field->as_int();
  };
  std::string fingerprint;
  int64_t rdma = 0;
  text("build", &report.build);
  text("host", &report.host);
  text("fingerprint", &fingerprint);
  text("error", &report.error);
  number("memory_free", &report.memory_free);
  number("clock_ms", &report.clock_ms);
  number("rdma", &rdma);
  report.rdma = rdma != 0;
  std::from_chars(fingerprint.data(), fingerprint.data() + fingerprint.size(), report.fingerprint);
  if (!good) return corrupt("a rank's report is of another build");
  return report;
}

std::string name_of_rank(const ReplicaSpec& spec, int rank) {
  const std::string name = "rank " + std::to_string(rank);
  return spec.places.empty() ? name : name + " on " + spec.places[static_cast<size_t>(rank)].node;
}

Status compare(const ReplicaSpec& spec, const std::vector<RankReport>& reports) {
  const RankReport& first = reports[0];
  for (size_t i = 0; i < reports.size(); ++i) {
    const RankReport& report = reports[i];
    const std::string name = name_of_rank(spec, static_cast<int>(i));
    if (!report.error.empty()) return failure(spec.places.empty() ? report.error : name + ": " + report.error);
    if (report.build != first.build) {
      return failure(name + " runs Skein " + report.build + " and " + name_of_rank(spec, 0) + " " + first.build +
                     ": install the same version on every node");
    }
    if (report.fingerprint != first.fingerprint) {
      return failure("the model's files of " + name + " differ from those of " + name_of_rank(spec, 0) + ": copy " +
                     spec.model + " to every node anew");
    }
    const int64_t ahead_ms = report.clock_ms - first.clock_ms;
    if (std::abs(ahead_ms) > kClockMsMax) {
      return failure("the clock of " + name + " is " + std::to_string(std::abs(ahead_ms) / 1000) + " s " +
                     (ahead_ms > 0 ? "ahead of" : "behind") + " that of " + name_of_rank(spec, 0) +
                     ": synchronise the nodes' clocks, with chrony or the like");
    }
  }
  RETURN_IF_ERROR(compare_networks(spec, reports));
  return compare_memory(spec, reports);
}

}  // namespace skein
