#include "coordinator/cli/measure.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "base/json.h"
#include "base/probe.h"
#include "coordinator/control/job.h"
#include "coordinator/control/process.h"
#include "model/mapped_file.h"
#include "topology/calibrate.h"
#include "topology/node_types.h"

namespace skein {
namespace {

#ifdef SKEIN_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

constexpr auto kDeadline = std::chrono::seconds(240);  // of one run
constexpr std::string_view kReasonPrefix = "skein-worker: ";
constexpr int kGroupMax = 8;  // ranks of the largest group that is measured
constexpr double kSuspectShare = 0.5;  // less of a ceiling than that is told

// A folder that goes when it is no longer needed.
class PrivateFolder {
 public:
  static Result<PrivateFolder> make() {
    ASSIGN_OR_RETURN(std::string path, make_private_folder());
    return PrivateFolder(std::move(path));
  }
  PrivateFolder(PrivateFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  PrivateFolder& operator=(PrivateFolder&&) = delete;
  ~PrivateFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit PrivateFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// While it lives, signals that ask this process to end are polled for instead: what is running has to be cleared away.
class EndRequests {
 public:
  EndRequests() {
    sigemptyset(&signals_);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals_, number);
    sigprocmask(SIG_BLOCK, &signals_, &before_);
    fd_ = signalfd(-1, &signals_, SFD_CLOEXEC);
  }
  ~EndRequests() {
    close(fd_);
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  EndRequests(const EndRequests&) = delete;
  EndRequests& operator=(const EndRequests&) = delete;
  int fd() const { return fd_; }
  // Takes what is pending: it has been obeyed. Requires: fd() is readable.
  void take() const {
    signalfd_siginfo info;
    [[maybe_unused]] const ssize_t bytes = read(fd_, &info, sizeof info);
  }

 private:
  sigset_t signals_;
  sigset_t before_;
  int fd_ = -1;
};

// Waits for a child's end and returns what it has written to its standard error; ends it at the deadline, or when this
// process is asked to end.
Result<std::string> words_until_end(const ChildProcess& child, const EndRequests& end) {
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  std::string words;
  Status cut;
  while (cut.ok()) {
    const std::chrono::duration<double, std::milli> left = deadline - std::chrono::steady_clock::now();
    pollfd waits[] = {{child.error_fd, POLLIN, 0}, {end.fd(), POLLIN, 0}};
    if (left.count() <= 0 || poll(waits, 2, static_cast<int>(left.count()) + 1) == 0) {
      cut = unavailable("a probe has not ended within " + std::to_string(kDeadline.count()) +
                        " s: is something else running on these devices?");
    } else if (waits[1].revents != 0) {
      end.take();
      cut = unavailable("asked to end while measuring");
    } else {
      char buffer[4096];
      const ssize_t bytes = read(child.error_fd, buffer, sizeof buffer);
      if (bytes == 0) break;
      if (bytes > 0) words.append(buffer, static_cast<size_t>(bytes));
    }
  }
  if (!cut.ok()) kill(-child.pid, SIGKILL);
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) continue;
  kill(-child.pid, SIGKILL);  // whatever of its group is left
  close(child.error_fd);
  RETURN_IF_ERROR(cut);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return words;
  const size_t reason = words.find(kReasonPrefix);
  const size_t begin = reason == words.npos ? 0 : reason + kReasonPrefix.size();
  return unavailable("a probe ended early: " + words.substr(begin, words.find('\n', begin) - begin));
}

Result<std::vector<ProbeSample>> run_probe(ProbeSpec spec, int ranks) {
  ASSIGN_OR_RETURN(const PrivateFolder folder, PrivateFolder::make());
  spec.output = folder.path() + "/samples.json";
  const std::string path = folder.path() + "/probe.json";
  RETURN_IF_ERROR(write_private_file(path, to_json(spec).dump()));
  MpirunOptions mpirun;
  mpirun.worker = {program_folder() + "/skein-worker", "--probe", path};
  mpirun.folder = folder.path();
  const ChildOptions options{.arguments = mpirun_arguments({.ranks = static_cast<uint32_t>(ranks), .spec = {}}, mpirun),
                             .environment = mpi_environment(folder.path()),
                             .capture_error = true};
  const EndRequests end;
  ASSIGN_OR_RETURN(const ChildProcess child, start_process(options));
  RETURN_IF_ERROR(words_until_end(child, end).status());
  ASSIGN_OR_RETURN(const std::string text, read_file(spec.output, kProbeBytesMax));
  ASSIGN_OR_RETURN(const Json json, parse_json(text));
  return parse_probe_samples(json);
}

class Measuring {
 public:
  explicit Measuring(const Cluster& machine)
      : machine_(machine), node_(machine.nodes.front()), shipped_(shipped_calibration()) {}

  Result<Measurement> run() {
    if (node_.devices.empty()) return unsupported("this machine has no device to measure");
    gpu_ = kind_of(machine_, node_.devices.front()).gpu;
    if (gpu_ && !kBuiltWithCuda) {
      return unsupported("this build has no CUDA backend to measure GPUs with: build it with scripts/build cuda");
    }
    std::vector<int> measured;  // kinds
    for (size_t i = 0; i < node_.devices.size(); ++i) {
      if (std::ranges::find(measured, node_.devices[i].kind) != measured.end()) continue;
      measured.push_back(node_.devices[i].kind);
      RETURN_IF_ERROR(measure_device(static_cast<int>(i)));
    }
    for (int ranks = 2; ranks <= std::min(alike(), kGroupMax); ranks *= 2) RETURN_IF_ERROR(measure_group(ranks));
    return std::move(result_);
  }

 private:
  // How many devices from the first one on are of its kind.
  int alike() const {
    const auto is_other = [&](const Device& device) { return device.kind != node_.devices[0].kind; };
    const auto other = std::ranges::find_if(node_.devices, is_other);
    return static_cast<int>(other - node_.devices.begin());
  }

  Status measure_device(int index) {
    const DeviceKind& kind = kind_of(machine_, node_.devices[static_cast<size_t>(index)]);
    const int threads = gpu_ ? 1 : node_.cores;
    std::fprintf(stderr, "measuring %s\n", kind.name.c_str());
    ASSIGN_OR_RETURN(const std::vector<ProbeSample> samples,
                     run_probe({.device = gpu_ ? "cuda" : "cpu", .first_device = index, .threads = threads}, 1));
    const DeviceCalibration* before = shipped_.find_device(kind.name);
    DeviceCalibration fit = calibrate_device(before != nullptr ? *before : DeviceCalibration{}, samples, threads);
    fit.name = kind.name;
    fit.source = measured_here(kind.name);
    if (gpu_) {
      suspect(kind.name + " reads", fit.read_bytes_per_s, kind.read_bytes_per_s, readable_rate, &result_.findings);
      suspect(kind.name + " computes", fit.flops, kind.bf16_flops, readable_flops, &result_.findings);
    }
    result_.calibration.devices.push_back(std::move(fit));
    return {};
  }

  Status measure_group(int ranks) {
    std::fprintf(stderr, "measuring exchanges of %d ranks\n", ranks);
    ASSIGN_OR_RETURN(const std::vector<ProbeSample> samples,
                     run_probe({.device = gpu_ ? "cuda" : "cpu", .threads = 1, .spin = ranks <= node_.cores}, ranks));
    Path slowest = *path_between(machine_, {0, 0}, {0, 1});
    for (int a = 0; a < ranks; ++a) {
      for (int b = a + 1; b < ranks; ++b) {
        const Path path = *path_between(machine_, {0, a}, {0, b});
        if (path.bytes_per_s < slowest.bytes_per_s) slowest = path;
      }
    }
    LinkCalibration fit = calibrate_link(slowest.link, ranks, samples);
    const DeviceKind& kind = kind_of(machine_, node_.devices.front());
    fit.device = kind.name;
    fit.source = measured_here(kind.name);
    if (!fit.point_to_point_us.empty() && gpu_) {
      suspect(std::string(name(slowest.link)) + " between devices 0 and 1 carries",
              carried_bytes_per_s(fit.point_to_point_us), slowest.bytes_per_s, readable_rate, &result_.findings);
    }
    result_.calibration.links.push_back(std::move(fit));
    return {};
  }

  const Cluster& machine_;
  const Node& node_;
  const Calibration shipped_;
  bool gpu_ = false;
  Measurement result_;
};

}  // namespace

Source measured_here(const std::string& machine) {
  const std::chrono::year_month_day day(std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now()));
  char text[32];
  std::snprintf(text, sizeof text, "%04d-%02u-%02u", static_cast<int>(day.year()), static_cast<unsigned>(day.month()),
                static_cast<unsigned>(day.day()));
  return {.machine = machine, .commit = SKEIN_BUILD, .date = text};
}

void suspect(const std::string& what, double measured, double described, std::string (*readable)(double),
             std::vector<std::string>* findings) {
  if (measured >= kSuspectShare * described) return;
  findings->push_back(what + " " + readable(measured) + " where " + readable(described) +
                      " are described: is it shared, throttled, or joined by something else?");
}

Result<Measurement> measure(const Cluster& machine) { return Measuring(machine).run(); }

}  // namespace skein
