#include "coordinator/control/agent.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>

#include "base/clock.h"
#include "base/lease_watch.h"
#include "base/log.h"
#include "base/network.h"
#include "base/parse_number.h"
#include "base/replica_spec.h"
#include "coordinator/control/job.h"
#include "coordinator/control/node_watch.h"
#include "coordinator/control/process.h"
#include "coordinator/control/rsh.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kSignPeriod = std::chrono::milliseconds(250);
constexpr auto kKillAfter = std::chrono::milliseconds(1500);
constexpr auto kStrayPatience = std::chrono::seconds(10);  // what a signal has not ended by then, it does not end
constexpr auto kRshPatience = std::chrono::seconds(60);   // until another node's agent has answered
constexpr auto kComplainPeriod = std::chrono::seconds(30);
constexpr int kLinesPerTurn = 256;     // of a job
constexpr int kPipeLinesMax = 64 << 10;  // that a pipe holds
constexpr double kComplainSeconds = 5;  // without an answer of the coordinator

uint64_t random_number() {
  uint64_t number = 0;
  CHECK_EQ(getrandom(&number, sizeof number, 0), static_cast<ssize_t>(sizeof number));
  return number;
}

class Agent {
 public:
  // `watch`: of a cluster's node; null on one machine.
  Agent(const AgentConfig& config, RegisterAgent registration, std::unique_ptr<MessageSocket> socket,
        std::unique_ptr<NodeWatch> watch)
      : config_(config),
        worker_(config.worker.empty() ? program_folder() + "/skein-worker" : config.worker),
        registration_(std::move(registration)),
        socket_(std::move(socket)),
        watch_(std::move(watch)) {}

  Status run() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&signals, number);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_CHILD_SUBREAPER, 1);  // ranks whose mpirun or orted was killed become ours to end
    introduce();
    lease_.heard(now_ms());
    next_sign_ = Clock::now() + kSignPeriod;
    next_complaint_ = Clock::now();
    while (!(stopping_ && jobs_.empty())) {
      turn();
      wait();
    }
    if (orphaned_ || config_.node) {
      std::error_code ignored;  // nobody is left to tell
      std::filesystem::remove_all(config_.run_folder, ignored);
    }
    return outcome_;
  }

 private:
  struct Asked {  // a `skein rsh` that waits
    int fd = -1;
    uint64_t launch = 0;
    std::string node;
    Clock::time_point since;
  };

  struct Waiting {  // to be started
    Job job;
    LaunchShare share;               // of this node
    std::optional<Launch> launch;    // none: a share of another agent's mpirun,
    std::vector<std::string> orted;  // by this command
    ReplicaSpec spec;                // of `launch`
    Clock::time_point since;
    bool told = false;               // that it waits for processes
    std::optional<Clock::time_point> asked;  // the driver
  };

  void turn() {
    while (std::optional<MessageSocket::Received> received = socket_->receive()) {
      lease_.heard(now_ms());
      if (received->frame.ok()) take(std::move(*received->frame));
    }
    for (auto& [launch, job] : jobs_) {
      job.read_errors(kLinesPerTurn);
      // mpirun would take two seconds to end the other ranks, as long as a leader's lease. Between nodes it has to.
      const bool ending = job.kill_at != Clock::time_point::max();
      if (job.rank_failed && job.nodes.size() < 2 && !ending) end_job(job, SIGKILL);
    }
    for (auto& [launch, listener] : listeners_) take_requests(launch, *listener);
    reap();
    const Clock::time_point now = Clock::now();
    for (auto& [launch, job] : jobs_) {
      if (now >= job.kill_at) kill(-job.pid, SIGKILL);
    }
    if (watch_ != nullptr) watch_node(now);
    start_waiting(now);
    give_up_asking(now);
    if (now >= next_sign_) {
      send(status());
      watch_lease(now);
      next_sign_ = now + kSignPeriod;
    }
  }

  void watch_node(Clock::time_point now) {
    std::optional<std::string> description = watch_->turn(now);
    if (!description) return;
    // A coordinator that is started again finds the plan that these jobs are of.
    registration_.topology =
        jobs_.empty() ? std::move(*description) : with_free_of(registration_.topology, *description, config_.name);
    introduce();
  }

  void watch_lease(Clock::time_point now) {
    const double silent = static_cast<double>(lease_.silent_ms(now_ms())) / 1000;
    if (!config_.node) {
      if (silent <= config_.lease_seconds || stopping_) return;
      log_warning("agent: the coordinator is gone; ending its jobs");
      orphaned_ = true;
      return end_all(SIGKILL);
    }
    if (socket_->key_refused() && !stopping_) {
      outcome_ = invalid_argument("the coordinator at " + config_.coordinator + " refused the key of " + config_.name +
                                  ": add \"" + config_.name + " " + config_.node->keys.own.public_key +
                                  "\" to its allow-list");
      return end_all(SIGTERM);
    }
    if (silent > config_.lease_seconds) waiting_.clear();
    for (auto& [launch, job] : jobs_) {
      if (silent <= config_.lease_seconds || job.kill_at != Clock::time_point::max()) continue;
      // What serves waits for a coordinator. Without ranks it does not serve: on a node that is cut off, an mpirun or
      // orted that waits for an acknowledgement lives on until TCP gives up, which takes a quarter of an hour.
      if (job.ready && silent <= config_.node->orphan_seconds && has_ranks(job)) continue;
      log_warning("agent: no coordinator for the job's lease; ending it", {{"launch", job.id.launch}});
      end_job(job, SIGKILL);
    }
    if (silent > kComplainSeconds && now >= next_complaint_) {
      next_complaint_ = now + kComplainPeriod;
      log_warning("agent: no answer from the coordinator; does it run there, and is that its public key?",
                  {{"coordinator", config_.coordinator}, {"public_key", config_.node->keys.server_public_key}});
    }
  }

  bool has_ranks(const Job& job) const {
    return !children(job.pid, std::filesystem::path(worker_).filename().native()).empty();
  }

  void wait() {
    std::vector<int> readable{socket_->fd(), signal_fd_};
    for (const auto& [launch, job] : jobs_) {
      if (job.errors.fd >= 0) readable.push_back(job.errors.fd);
    }
    if (watch_ != nullptr && watch_->fd() >= 0) readable.push_back(watch_->fd());
    for (const auto& [launch, listener] : listeners_) listener->add_to(&readable);
    std::vector<pollfd> fds;
    for (const int fd : readable) fds.push_back({fd, POLLIN, 0});
    // Sends and receives of this turn may have consumed the socket's edge; a short sleep bounds what that can cost.
    poll(fds.data(), fds.size(), 50);
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      orphaned_ |= !config_.node && getppid() != parent_;  // the kernel's word that the coordinator ended
      end_all(orphaned_ ? SIGKILL : SIGTERM);
    }
  }

  void send(const Frame& frame) {
    const Status status = socket_->send("", frame);
    // A full queue is what a coordinator that is away leaves; what it needs is said again when it is back.
    if (status.ok() || (config_.node && status.code() == Code::kResourceExhausted)) return;
    log_warning("agent: frame dropped", {{"cause", status.message()}});
  }

  void introduce() {
    registration_.jobs.clear();
    for (const auto& [launch, job] : jobs_) registration_.jobs.push_back(job.id);
    for (const auto& [launch, waiting] : waiting_) registration_.jobs.push_back(waiting.job.id);
    send(registration_);
  }

  AgentStatus status() {
    AgentStatus status;
    for (const auto& [launch, job] : jobs_) {
      status.launches.push_back(launch);
      status.held.insert(status.held.end(), job.devices.begin(), job.devices.end());
    }
    for (const auto& [launch, waiting] : waiting_) status.launches.push_back(launch);
    std::ranges::sort(status.held);
    if (watch_ != nullptr) watch_->tell(Clock::now(), &status);
    return status;
  }

  void take(Frame frame) {
    if (const auto* launch = std::get_if<Launch>(&frame)) {
      if (const Status status = accept(*launch); !status.ok()) answer(launch->launch, true, status);
    } else if (const auto* daemon = std::get_if<StartDaemon>(&frame)) {
      if (const Status status = accept(*daemon); !status.ok()) answer(daemon->job.launch, false, status);
    } else if (const auto* started = std::get_if<DaemonStarted>(&frame)) {
      answer_rsh(*started);
    } else if (const auto* ready = std::get_if<LaunchReady>(&frame)) {
      if (const auto job = jobs_.find(ready->launch); job != jobs_.end()) job->second.ready = true;
    } else if (const auto* end = std::get_if<EndLaunch>(&frame)) {
      if (const auto job = jobs_.find(end->launch); job != jobs_.end()) end_job(job->second, SIGTERM);
      if (const auto waiting = waiting_.extract(end->launch); !waiting.empty()) {
        answer(end->launch, waiting.mapped().launch.has_value(), unavailable("it was ended before it was started"));
      }
    } else if (std::holds_alternative<Introduce>(frame)) {
      introduce();
    } else if (const auto* refusal = std::get_if<RefuseAgent>(&frame)) {
      outcome_ = unavailable(refusal->reason);
      end_all(SIGTERM);
    } else if (std::holds_alternative<Stop>(frame)) {
      end_all(0);  // the leaders were asked to leave, too: give them the time
    }
  }

  Status accept(const Launch& launch) {
    ASSIGN_OR_RETURN(const Json json, parse_json(launch.spec));
    Waiting waiting;
    ASSIGN_OR_RETURN(waiting.spec, parse_replica_spec(json));
    waiting.launch = launch;
    waiting.job.id = {.launch = launch.launch, .replica = launch.replica, .identity = launch.identity};
    waiting.job.nodes = launch.nodes;
    for (const LaunchNode& node : launch.nodes) waiting.job.shares[node.node] = share_of(waiting.spec, node.node);
    if (watch_ != nullptr) waiting.share = waiting.job.shares[config_.name];
    return accept(std::move(waiting));
  }

  Status accept(const StartDaemon& daemon) {
    Waiting waiting;
    ASSIGN_OR_RETURN(waiting.orted, parse_orted_command(daemon.command));
    waiting.orted[0] = "orted";  // this node's
    waiting.job.id = daemon.job;
    waiting.job.orted = true;
    waiting.share = daemon.share;
    return accept(std::move(waiting));
  }

  Status accept(Waiting waiting) {
    const uint64_t launch = waiting.job.id.launch;
    if (stopping_) return unavailable("the agent is stopping");
    if (jobs_.contains(launch) || waiting_.contains(launch)) {
      return unavailable("the agent of " + config_.name + " runs that launch already");
    }
    waiting.since = Clock::now();
    waiting_.emplace(launch, std::move(waiting));
    return {};
  }

  // To who asked for a launch, or for a share of one.
  void answer(uint64_t launch, bool whole, const Status& status) {
    if (!whole) send(DaemonStarted{launch, config_.name, status.message()});
    else if (!status.ok()) send(LaunchEnded{.launch = launch, .exit_status = 127, .reason = status.message()});
  }

  void start_waiting(Clock::time_point now) {
    for (auto entry = waiting_.begin(); entry != waiting_.end();) {
      if (!may_start(entry->second, now)) {
        ++entry;
        continue;
      }
      Waiting waiting = std::move(entry->second);
      const uint64_t launch = entry->first;
      const bool whole = waiting.launch.has_value();
      entry = waiting_.erase(entry);
      answer(launch, whole, start(std::move(waiting), now));
    }
  }

  // Whether memory is as it will be: what an earlier job left has ended, and the GPUs were looked at since.
  bool may_start(Waiting& waiting, Clock::time_point now) {
    if (strays_ > 0 && now - waiting.since < kStrayPatience) {
      if (!std::exchange(waiting.told, true)) {
        log_info("agent: a launch waits for processes of an earlier one to end",
                 {{"launch", waiting.job.id.launch}, {"processes", strays_}});
      }
      return false;
    }
    if (watch_ == nullptr || !waiting.share.gpus) return true;
    if (!waiting.asked) {
      waiting.asked = now;
      watch_->ask();
    }
    return watch_->knows(*waiting.asked, now);
  }

  Status start(Waiting waiting, Clock::time_point now) {
    Job& job = waiting.job;
    const uint64_t launch = job.id.launch;
    if (strays_ > 0) log_warning("agent: processes of an earlier launch do not end", {{"processes", strays_}});
    if (watch_ != nullptr) {
      // Before anything runs, so that what a node lacks is said once, by name.
      RETURN_IF_ERROR(watch_->check(waiting.share, now).within(config_.name));
      job.devices = waiting.share.devices;
    }
    job.folder = config_.run_folder + "/replica-" + std::to_string(launch);
    if (mkdir(job.folder.c_str(), 0700) != 0) {
      return unavailable("cannot make the folder " + job.folder + ": " + std::strerror(errno));
    }
    Status status = waiting.launch ? start_mpirun(&job, *waiting.launch, std::move(waiting.spec))
                                   : start_process_of(&job, std::move(waiting.orted), {});
    if (!status.ok()) {
      listeners_.erase(launch);
      std::error_code ignored;  // what stays goes with the run folder
      std::filesystem::remove_all(job.folder, ignored);
      return status;
    }
    jobs_.emplace(launch, std::move(job));
    return {};
  }

  Status start_mpirun(Job* job, const Launch& launch, ReplicaSpec spec) {
    const std::string spec_path = job->folder + "/spec.json";
    if (config_.node) {
      spec.coordinator = config_.coordinator;
      spec.coordinator_key = config_.node->keys.server_public_key;
      spec.key_file = config_.node->key_file;
    }
    RETURN_IF_ERROR(write_private_file(spec_path, to_json(spec).dump()));
    ASSIGN_OR_RETURN(const PortRange ports, parse_port_range(spec.ports));
    std::map<std::string, std::string> environment;
    if (launch.nodes.size() > 1) {
      const std::string path = job->folder + "/rsh";
      ASSIGN_OR_RETURN(listeners_[launch.launch], RshListener::listen(path));
      environment[kRshVariable] = path;
    }
    return start_process_of(job,
                            mpirun_arguments(launch, {.worker = {worker_, spec_path},
                                                      .rsh = program_folder() + "/skein rsh",
                                                      .folder = job->folder,
                                                      .ports = ports,
                                                      .networks = spec.network}),
                            std::move(environment));
  }

  Status start_process_of(Job* job, std::vector<std::string> arguments,
                          std::map<std::string, std::string> environment) {
    ChildOptions options{
        .arguments = std::move(arguments), .environment = std::move(environment), .capture_error = true};
    options.environment.merge(mpi_environment(job->folder));
    ASSIGN_OR_RETURN(const ChildProcess child, start_process(options));
    job->pid = child.pid;
    job->errors.fd = child.error_fd;
    return {};
  }

  // What mpirun has for other nodes goes to the coordinator, which knows their agents.
  void take_requests(uint64_t launch, RshListener& listener) {
    while (std::optional<RshRequest> request = listener.take()) {
      const Job& job = jobs_.at(launch);
      const auto node = std::ranges::find(job.nodes, request->host, &LaunchNode::address);
      if (node == job.nodes.end()) {
        RshListener::answer(request->fd, "the launch has no node at " + request->host);
        continue;
      }
      asked_.push_back({.fd = request->fd, .launch = launch, .node = node->node, .since = Clock::now()});
      send(StartDaemon{.job = job.id,
                       .node = node->node,
                       .command = std::move(request->command),
                       .share = job.shares.at(node->node)});
    }
  }

  void answer_rsh(const DaemonStarted& started) {
    std::erase_if(asked_, [&](const Asked& asked) {
      if (asked.launch != started.launch || asked.node != started.node) return false;
      RshListener::answer(asked.fd, started.error);
      return true;
    });
    const auto job = jobs_.find(started.launch);
    if (job != jobs_.end() && !started.error.empty() && job->second.reason.empty()) {
      job->second.reason = "cannot start on " + started.node + ": " + started.error;
    }
  }

  // Frames may be lost between agents and coordinator, and mpirun waits for its rsh without end.
  void give_up_asking(Clock::time_point now) {
    if (asked_.empty() || now - asked_.front().since <= kRshPatience) return;
    const Asked late = asked_.front();
    answer_rsh({late.launch, late.node, "its agent has not answered for " + std::to_string(kRshPatience.count()) + " s"});
  }

  void end_job(Job& job, int signal_number) {
    if (signal_number != 0) kill(-job.pid, signal_number);
    job.kill_at = std::min(job.kill_at, Clock::now() + kKillAfter);
  }

  void end_all(int signal_number) {
    stopping_ = true;
    waiting_.clear();
    for (auto& [launch, job] : jobs_) end_job(job, signal_number);
  }

  void reap() {
    int status = 0;
    pid_t pid = 0;
    bool any = false;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      any = true;
      const auto entry = std::ranges::find_if(jobs_, [&](const auto& item) { return item.second.pid == pid; });
      if (entry != jobs_.end()) end_of(entry, status);
      else if (watch_ != nullptr && pid == watch_->pid()) watch_->ended();
    }
    if (any) kill_strays();
  }

  void end_of(std::map<uint64_t, Job>::iterator entry, int status) {
    Job& job = entry->second;
    const uint64_t launch = job.id.launch;
    kill(-job.pid, SIGKILL);  // whatever of its group is left
    job.read_errors(kPipeLinesMax);
    if (job.errors.fd >= 0) close(job.errors.fd);
    std::erase_if(asked_, [&](const Asked& asked) {
      if (asked.launch == launch) RshListener::answer(asked.fd, "the launch has ended");
      return asked.launch == launch;
    });
    listeners_.erase(launch);
    std::error_code ignored;  // what stays goes with the run folder
    std::filesystem::remove_all(job.folder, ignored);
    const int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (config_.node) {
      log_info("agent: job ended", {{"launch", launch}, {"status", code}, {"last_words", job.last_words}});
    }
    send(LaunchEnded{.launch = launch, .exit_status = code, .reason = job.end_reason(code)});
    jobs_.erase(entry);
  }

  // Children that nobody here started were left by a job that ended.
  void kill_strays() {
    strays_ = 0;
    for (const pid_t child : children(getpid())) {
      if (watch_ != nullptr && child == watch_->pid()) continue;
      if (std::ranges::any_of(jobs_, [&](const auto& item) { return item.second.pid == child; })) continue;
      kill(child, SIGKILL);
      ++strays_;
    }
  }

  const AgentConfig config_;
  const std::string worker_;
  RegisterAgent registration_;
  std::unique_ptr<MessageSocket> socket_;
  const std::unique_ptr<NodeWatch> watch_;
  std::map<uint64_t, Job> jobs_;
  std::map<uint64_t, Waiting> waiting_;
  int strays_ = 0;  // that have not ended yet
  std::map<uint64_t, std::unique_ptr<RshListener>> listeners_;  // of jobs over several nodes
  std::vector<Asked> asked_;
  const pid_t parent_ = getppid();
  int signal_fd_ = -1;
  bool stopping_ = false;
  bool orphaned_ = false;  // the coordinator went without a word: its folder is ours to remove
  Status outcome_;
  LeaseWatch lease_;  // of the coordinator
  Clock::time_point next_sign_;
  Clock::time_point next_complaint_;
};

// One agent of a coordinator, which its key tells from others. Held while the process lives; a name of the network
// namespace, so that no file stays behind.
Status claim_host(const std::string& coordinator_key) {
  const std::string name = "skein-agent " + coordinator_key;
  sockaddr_un address{};
  CHECK_LT(name.size(), sizeof address.sun_path);
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0) return {};
  const int error = errno;
  close(fd);
  if (error != EADDRINUSE) return unavailable(std::string("cannot claim this host: ") + std::strerror(error));
  return unavailable("another `skein agent` of this coordinator runs on this host, and one serves all its devices: end it first");
}

// "tcp://head:7300" -> "head"
Result<std::string> host_of(const std::string& endpoint) {
  constexpr std::string_view kScheme = "tcp://";
  const size_t colon = endpoint.rfind(':');
  const std::string_view digits = std::string_view(endpoint).substr(std::min(colon, endpoint.size() - 1) + 1);
  const int port = parse_number<int>(digits).value_or(0);
  if (!endpoint.starts_with(kScheme) || colon <= kScheme.size() || port < 1 || port > 65535) {
    return invalid_argument("\"" + endpoint + "\" is no address of a coordinator: write tcp://HOST:PORT, with a port from 1 to 65535");
  }
  return endpoint.substr(kScheme.size(), colon - kScheme.size());
}

Status run_node_agent(AgentConfig config) {
  NodeAgentConfig& node = *config.node;
  ASSIGN_OR_RETURN(const std::string host, host_of(config.coordinator));
  Result<Interface> interface = node.interface.empty() ? interface_towards(host) : find_interface(node.interface);
  if (!interface.ok()) return interface.status();
  RETURN_IF_ERROR(claim_host(node.keys.server_public_key));
  if (config.run_folder.empty()) {
    ASSIGN_OR_RETURN(config.run_folder, make_private_folder());
  }
  auto watch = std::make_unique<NodeWatch>(config.name, interface->name, node.driver_seconds);
  RegisterAgent registration{.node = config.name,
                             .build = SKEIN_BUILD,
                             .instance = random_number(),
                             .address = interface->address,
                             .network = interface->network(),
                             .topology = watch->describe(),
                             .jobs = {}};
  const std::string name = "agent-" + config.name + "-" + std::to_string(registration.instance);
  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket,
                   MessageSocket::connect(config.coordinator, name, node.keys));
  log_info("agent: started", {{"node", config.name}, {"address", interface->address}, {"coordinator", config.coordinator}});
  return Agent(config, std::move(registration), std::move(socket), std::move(watch)).run();
}

}  // namespace

Status run_agent(const AgentConfig& config) {
  if (config.node) return run_node_agent(config);
  ASSIGN_OR_RETURN(std::unique_ptr<MessageSocket> socket,
                   MessageSocket::connect(config.coordinator, "agent-" + config.name));
  RegisterAgent registration{.node = config.name, .build = SKEIN_BUILD};
  return Agent(config, std::move(registration), std::move(socket), nullptr).run();
}

}  // namespace skein
