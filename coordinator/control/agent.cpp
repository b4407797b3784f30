#include "coordinator/control/agent.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>

#include "base/lease_watch.h"
#include "base/log.h"
#include "base/replica_spec.h"
#include "comm/messages.h"
#include "coordinator/control/process.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kReasonPrefix = "skein-worker: ";
constexpr auto kSignPeriod = std::chrono::milliseconds(250);
constexpr auto kKillAfter = std::chrono::milliseconds(1500);
constexpr size_t kLineBytesMax = 64 << 10;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch()).count();
}

// One mpirun with its ranks.
struct Job {
  uint64_t launch = 0;
  pid_t pid = -1;
  int error_fd = -1;
  std::string folder;  // what mpirun and its ranks write; goes with the job
  std::string line;    // unfinished
  std::string reason;  // the first sentence of a rank that failed
  std::string last_line;
  Clock::time_point kill_at = Clock::time_point::max();
};

std::vector<std::string> mpirun_arguments(const std::string& worker, uint32_t ranks, const std::string& folder,
                                          const std::string& spec_path) {
  return {"mpirun", "-n", std::to_string(ranks), "--oversubscribe", "--bind-to", "none",
          // One node: no sockets for data, the loopback interface for mpirun's own.
          "--mca", "pml", "ob1", "--mca", "btl", "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none",
          // Not in /dev/shm, where ranks that are killed would leave their segments for ever.
          "--mca", "btl_vader_backing_directory", folder,
          "--mca", "plm", "isolated", "--mca", "oob_tcp_if_include", "lo",
          // Ranks that wait for each other while they start must not eat the cores of those that load.
          "--mca", "mpi_yield_when_idle", "1", "--mca", "orte_abort_print_stack", "0",
          worker, spec_path};
}

class Agent {
 public:
  Agent(const AgentConfig& config, std::unique_ptr<MessageSocket> socket)
      : config_(config),
        worker_(config.worker.empty() ? program_folder() + "/skein-worker" : config.worker),
        socket_(std::move(socket)) {}

  Status run() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&signals, number);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    send(RegisterAgent{.node = "local", .build = SKEIN_BUILD});
    lease_.heard(now_ms());
    next_sign_ = Clock::now() + kSignPeriod;
    while (!(stopping_ && jobs_.empty())) {
      turn();
      wait();
    }
    if (orphaned_) {
      std::error_code ignored;  // nobody is left to tell
      std::filesystem::remove_all(config_.run_folder, ignored);
    }
    return {};
  }

 private:
  void turn() {
    while (std::optional<MessageSocket::Received> received = socket_->receive()) {
      lease_.heard(now_ms());
      if (received->frame.ok()) take(std::move(*received->frame));
    }
    for (auto& [launch, job] : jobs_) read_errors(job);
    reap();
    const Clock::time_point now = Clock::now();
    for (auto& [launch, job] : jobs_) {
      if (now >= job.kill_at) kill(-job.pid, SIGKILL);
    }
    if (now >= next_sign_) {
      send(Lease{});
      next_sign_ = now + kSignPeriod;
    }
    if (static_cast<double>(lease_.silent_ms(now_ms())) > config_.lease_seconds * 1000 && !stopping_) {
      log_warning("agent: the coordinator is gone; ending its jobs");
      orphaned_ = true;
      end_all(SIGKILL);
    }
  }

  void wait() {
    std::vector<pollfd> fds{{socket_->fd(), POLLIN, 0}, {signal_fd_, POLLIN, 0}};
    for (const auto& [launch, job] : jobs_) {
      if (job.error_fd >= 0) fds.push_back({job.error_fd, POLLIN, 0});
    }
    // Sends and receives of this turn may have consumed the socket's edge; a short sleep bounds what that can cost.
    poll(fds.data(), fds.size(), 50);
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      orphaned_ |= getppid() != parent_;  // the kernel's word that the coordinator ended
      end_all(orphaned_ ? SIGKILL : SIGTERM);
    }
  }

  void send(const Frame& frame) {
    const Status status = socket_->send("", frame);
    if (!status.ok()) log_warning("agent: frame dropped", {{"cause", status.message()}});
  }

  void take(Frame frame) {
    if (const auto* launch = std::get_if<Launch>(&frame)) {
      const Status status = start(*launch);
      if (!status.ok()) send(LaunchEnded{.launch = launch->launch, .exit_status = 127, .reason = status.message()});
    } else if (const auto* end = std::get_if<EndLaunch>(&frame)) {
      if (const auto job = jobs_.find(end->launch); job != jobs_.end()) end_job(job->second, SIGTERM);
    } else if (std::holds_alternative<Stop>(frame)) {
      end_all(0);  // the leaders were asked to leave, too: give them the time
    }
  }

  Status start(const Launch& launch) {
    if (stopping_) return unavailable("the agent is stopping");
    Job job;
    job.launch = launch.launch;
    job.folder = config_.run_folder + "/replica-" + std::to_string(launch.launch);
    if (mkdir(job.folder.c_str(), 0700) != 0) {
      return unavailable("cannot make the folder " + job.folder + ": " + std::strerror(errno));
    }
    const std::string spec_path = job.folder + "/spec.json";
    RETURN_IF_ERROR(write_private_file(spec_path, launch.spec));
    ChildOptions options{.arguments = mpirun_arguments(worker_, launch.ranks, job.folder, spec_path),
                         .environment = {{"TMPDIR", job.folder}, {"OMP_NUM_THREADS", "1"}},
                         .capture_error = true};
    if (geteuid() == 0) {
      // Containers run as root; mpirun asks to be told so.
      options.environment["OMPI_ALLOW_RUN_AS_ROOT"] = "1";
      options.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
    }
    ASSIGN_OR_RETURN(const ChildProcess child, start_process(options));
    job.pid = child.pid;
    job.error_fd = child.error_fd;
    jobs_.emplace(job.launch, std::move(job));
    return {};
  }

  void end_job(Job& job, int signal_number) {
    if (signal_number != 0) kill(-job.pid, signal_number);
    job.kill_at = std::min(job.kill_at, Clock::now() + kKillAfter);
  }

  void end_all(int signal_number) {
    stopping_ = true;
    for (auto& [launch, job] : jobs_) end_job(job, signal_number);
  }

  void read_errors(Job& job) {
    char buffer[4096];
    ssize_t bytes = 0;
    while (job.error_fd >= 0 && (bytes = read(job.error_fd, buffer, sizeof buffer)) > 0) {
      for (const char c : std::string_view(buffer, static_cast<size_t>(bytes))) {
        if (c == '\n' || job.line.size() >= kLineBytesMax) take_line(job);
        if (c != '\n') job.line += c;
      }
    }
    if (bytes == 0 && job.error_fd >= 0) {
      take_line(job);
      close(job.error_fd);
      job.error_fd = -1;
    }
  }

  // Ranks' log lines pass through; their last words are kept; mpirun's own essays are not shown.
  void take_line(Job& job) {
    if (job.line.starts_with(kReasonPrefix)) {
      if (job.reason.empty()) job.reason = job.line.substr(kReasonPrefix.size());
      // A rank has ended: mpirun would take two seconds to end the others, as long as a leader's lease.
      end_job(job, SIGKILL);
    } else if (job.line.starts_with("{\"time\"")) {
      const std::string line = job.line + "\n";
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
    } else if (job.line.find("check failed") != std::string::npos && job.reason.empty()) {
      job.reason = job.line;
    } else if (job.line.find_first_not_of("- \t*") != std::string::npos) {
      job.last_line = job.line;
    }
    job.line.clear();
  }

  void reap() {
    int status = 0;
    pid_t pid = 0;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      const auto entry = std::ranges::find_if(jobs_, [&](const auto& item) { return item.second.pid == pid; });
      if (entry == jobs_.end()) continue;
      Job& job = entry->second;
      kill(-pid, SIGKILL);  // whatever of its group is left
      read_errors(job);
      if (job.error_fd >= 0) close(job.error_fd);
      std::error_code ignored;  // what stays goes with the run folder
      std::filesystem::remove_all(job.folder, ignored);
      const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      std::string reason = job.reason;
      if (reason.empty() && code != 0) {
        reason = "mpirun ended with status " + std::to_string(code) +
                 (job.last_line.empty() ? "" : ": " + job.last_line.substr(0, 300));
      }
      send(LaunchEnded{.launch = job.launch, .exit_status = code, .reason = std::move(reason)});
      jobs_.erase(entry);
    }
  }

  const AgentConfig config_;
  const std::string worker_;
  std::unique_ptr<MessageSocket> socket_;
  std::map<uint64_t, Job> jobs_;
  const pid_t parent_ = getppid();
  int signal_fd_ = -1;
  bool stopping_ = false;
  bool orphaned_ = false;  // the coordinator went without a word: its folder is ours to remove
  LeaseWatch lease_;  // of the coordinator
  Clock::time_point next_sign_;
};

}  // namespace

Status run_agent(const AgentConfig& config) {
  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket, MessageSocket::connect(config.coordinator, "agent"));
  return Agent(config, std::move(socket)).run();
}

}  // namespace skein
