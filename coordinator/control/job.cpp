#include "coordinator/control/job.h"

#include <unistd.h>

#include <initializer_list>
#include <optional>

namespace skein {
namespace {

constexpr std::string_view kReasonPrefix = "skein-worker: ";
constexpr int kOwnPorts = 4;
constexpr size_t kWordsMax = 300;
constexpr size_t kCommandBytesMax = 64 << 10;

void append(std::vector<std::string>* to, std::initializer_list<std::string> words) { to->insert(to->end(), words); }

// One node: no sockets for data, the loopback interface for mpirun's own.
void add_one_node(const MpirunOptions& options, std::vector<std::string>* words) {
  append(words, {"--mca", "btl", "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none",
                 // Not in /dev/shm, where ranks that are killed would leave their segments for ever.
                 "--mca", "btl_vader_backing_directory", options.folder,
                 "--mca", "plm", "isolated", "--mca", "oob_tcp_if_include", "lo"});
}

// Several: addresses instead of names, so that nothing has to resolve; ports of one range, for firewalls.
void add_nodes(const Launch& launch, const MpirunOptions& options, std::vector<std::string>* words) {
  std::string hosts;
  for (const LaunchNode& node : launch.nodes) {
    hosts += (hosts.empty() ? "" : ",") + node.address + ":" + std::to_string(node.ranks);
  }
  append(words, {"--host", hosts, "--map-by", "slot", "--wdir", "/",
                 "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", options.networks,
                 "--mca", "plm", "rsh", "--mca", "plm_rsh_agent", options.rsh,
                 // Each orted is started by mpirun itself, stays where the agent put it, and notices a dead link.
                 "--mca", "plm_rsh_no_tree_spawn", "1", "--mca", "routed", "direct",
                 "--mca", "orte_leave_session_attached", "1", "--mca", "orte_keep_fqdn_hostnames", "1",
                 "--mca", "oob_tcp_if_include", options.networks, "--mca", "oob_tcp_disable_ipv6_family", "1",
                 "--mca", "btl_tcp_disable_family", "6", "--mca", "oob_tcp_keepalive_time", "2", "--mca", "oob_tcp_keepalive_intvl", "1",
                 "--mca", "oob_tcp_keepalive_probes", "3"});
  if (options.ports == PortRange{}) return;
  // mpirun and orted listen at every port that they are given, and at none that a launch has left less than a minute
  // ago: each launch has others, of the range's first half.
  const int half = (options.ports.last - options.ports.first + 1) / 2;
  const auto turn = static_cast<int>(launch.launch % static_cast<uint64_t>(half / kOwnPorts));
  const int own = options.ports.first + kOwnPorts * turn;
  append(words, {"--mca", "oob_tcp_dynamic_ipv4_ports", to_string(PortRange{own, own + kOwnPorts - 1}),
                 "--mca", "btl_tcp_port_min_v4", std::to_string(options.ports.first + half),
                 "--mca", "btl_tcp_port_range_v4", std::to_string(half)});
}

}  // namespace

void Job::read_errors(int lines_max) {
  for (int lines = 0; lines < lines_max; ++lines) {
    const std::optional<std::string> line = errors.next();
    if (!line) return;
    take_line(*line);
  }
}

void Job::take_line(const std::string& line) {
  if (line.starts_with(kReasonPrefix)) {
    rank_failed = true;
    if (reason.empty()) reason = line.substr(kReasonPrefix.size());
  } else if (line.starts_with("{\"time\"")) {
    const std::string whole = line + "\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, whole.data(), whole.size());
  } else if (line.find("check failed") != std::string::npos && reason.empty()) {
    reason = line;
  } else if (line.find("has lost communication with a remote daemon") != std::string::npos && reason.empty()) {
    reason = "mpirun lost its connection to another node: is that node, or the network to it, down?";
  } else if (line.find("failed to TCP connect to a peer MPI process") != std::string::npos && reason.empty()) {
    reason = "a rank cannot connect to one on another node: do firewalls between them let MPI's ports through?";
  } else if (line.find("unable to complete a TCP connection") != std::string::npos && reason.empty()) {
    reason = "the nodes cannot connect to each other: do firewalls between them let mpirun's ports through?";
  } else {
    take_words(line);
  }
}

void Job::take_words(const std::string& line) {
  if (line.find("orte_base_help_aggregate") != std::string::npos ||
      line.find("sent help message") != std::string::npos) {
    return;  // how to see an essay more than once
  }
  if (line.find_first_not_of("- \t*") == std::string::npos) {
    if (line.starts_with("---")) {
      place_ = place_ == Place::kOutside ? Place::kOpened : Place::kOutside;
    } else if (place_ == Place::kFirstParagraph) {
      place_ = Place::kBehind;
    }
    return;
  }
  if (place_ == Place::kBehind) return;
  last_words = (place_ == Place::kFirstParagraph ? last_words + " " + line : line).substr(0, kWordsMax);
  if (place_ == Place::kOpened) place_ = Place::kFirstParagraph;
}

std::string Job::end_reason(int exit_status) const {
  if (!reason.empty() || exit_status == 0) return reason;
  return (orted ? "orted" : "mpirun") + std::string(" ended with status ") + std::to_string(exit_status) +
         (last_words.empty() ? "" : ": " + last_words);
}

std::vector<std::string> mpirun_arguments(const Launch& launch, const MpirunOptions& options) {
  std::vector<std::string> words{"mpirun", "-n", std::to_string(launch.ranks), "--oversubscribe", "--bind-to", "none",
                                 "--mca", "pml", "ob1"};
  if (launch.nodes.size() < 2) {
    add_one_node(options, &words);
  } else {
    add_nodes(launch, options, &words);
  }
  // Ranks that wait for each other while they start must not eat the cores of those that load.
  append(&words, {"--mca", "mpi_yield_when_idle", "1", "--mca", "orte_abort_print_stack", "0"});
  words.insert(words.end(), options.worker.begin(), options.worker.end());
  return words;
}

std::map<std::string, std::string> mpi_environment(const std::string& folder) {
  std::map<std::string, std::string> environment = {
      {"TMPDIR", folder},
      {"OMP_NUM_THREADS", "1"},
      {"CUDA_DEVICE_ORDER", "PCI_BUS_ID"},  // as the driver and places count
  };
  if (geteuid() == 0) {
    // Containers run as root; mpirun asks to be told so.
    environment["OMPI_ALLOW_RUN_AS_ROOT"] = "1";
    environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1";
  }
  return environment;
}

Result<std::vector<std::string>> parse_orted_command(std::string_view command) {
  if (command.size() > kCommandBytesMax) return invalid_argument("orted's command line is too long");
  std::vector<std::string> words;
  bool in_word = false;
  bool quoted = false;
  for (const char c : command) {
    if (c == '"') {
      quoted = !quoted;
      if (!in_word) words.emplace_back();
      in_word = true;
    } else if (c == ' ' && !quoted) {
      in_word = false;
    } else if (std::string_view("\\'$`;&|<>()\n").find(c) != std::string_view::npos && !quoted) {
      return invalid_argument("orted's command line has a " + std::string(1, c) + " that only a shell would understand");
    } else {
      if (!in_word) words.emplace_back();
      in_word = true;
      words.back() += c;
    }
  }
  if (quoted) return invalid_argument("orted's command line ends within quotes");
  if (words.empty() || words[0].substr(words[0].rfind('/') + 1) != "orted") {
    return invalid_argument("mpirun asked for \"" + (words.empty() ? std::string() : words[0]) + "\" where orted is expected");
  }
  return words;
}

}  // namespace skein
