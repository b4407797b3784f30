// What runs on a cluster's nodes: `skein agent`, the `skein look` that it starts, the `skein rsh` that mpirun starts;
// and the keys of agents and coordinator.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/node_name.h"
#include "comm/keys.h"
#include "comm/messages.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/options.h"
#include "coordinator/control/agent.h"
#include "coordinator/control/node_look.h"
#include "coordinator/control/process.h"

namespace skein {
namespace {

constexpr char kCoordinator[] = "coordinator";
constexpr double kLaunchLeaseSeconds = 5;  // of a job in a cluster whose replica does not serve yet

struct AgentFlags {
  AgentConfig agent;
  NodeAgentConfig node;
  std::string coordinator_key;
  double lease_seconds = 0;  // 0: the default of the kind of agent
};

void add_agent_options(OptionTable* table, AgentFlags* flags) {
  table->add_text("coordinator", "ENDPOINT", "where the coordinator listens: tcp://HOST:PORT", &flags->agent.coordinator);
  table->add_text("name", "NAME", "this node, as the coordinator's allow-list names it; default: the host's name",
                  &flags->agent.name);
  table->add_text("key-file", "F", "this node's keys, of `skein keys`", &flags->node.key_file);
  table->add_text("coordinator-key", "F", "the coordinator's public key; default: coordinator.pub beside key-file",
                  &flags->coordinator_key);
  table->add_text("interface", "I", "interface, address or network between the nodes; default: the one that leads to "
                  "the coordinator", &flags->node.interface);
  table->add_real("orphan-timeout", "seconds that a replica lives on without a coordinator", 1, 86400,
                  &flags->node.orphan_seconds);
  table->add_real("driver-timeout", "seconds that the GPU driver may take to answer before the node goes on without it", 1,
                  3600, &flags->node.driver_seconds);
  table->add_text("run-folder", "DIR", "private folder for the jobs' files", &flags->agent.run_folder);
  table->add_real("lease-seconds", "silence of the coordinator after which a job that does not serve yet is killed", 0.1,
                  86400, &flags->lease_seconds);
  table->add_text("worker", "PATH", "the skein-worker to run; default: beside this program", &flags->agent.worker);
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

Status make_folder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return unavailable("cannot make the folder " + folder + ": " + std::strerror(errno));
}

// What would only be found when the first replica is launched.
Status check_paths(const AgentConfig& agent) {
  std::error_code ignored;
  if (!agent.worker.empty() &&
      (!std::filesystem::is_regular_file(agent.worker, ignored) || access(agent.worker.c_str(), X_OK) != 0)) {
    return not_found("--worker " + agent.worker + " is no program that can be run: name a skein-worker, or leave it out");
  }
  if (agent.run_folder.empty()) return {};
  RETURN_IF_ERROR(make_folder(agent.run_folder).within("--run-folder"));
  const bool folder = std::filesystem::is_directory(agent.run_folder, ignored);
  if (!folder || access(agent.run_folder.c_str(), W_OK | X_OK) != 0) {
    return unavailable("--run-folder " + agent.run_folder + " is no folder that this user can write to: name another one");
  }
  for (const auto& entry : std::filesystem::directory_iterator(agent.run_folder, ignored)) {
    if (entry.path().filename().string().starts_with("replica-")) continue;  // of an agent that was killed
    return invalid_argument("--run-folder " + agent.run_folder + " holds " + entry.path().filename().string() +
                            ", and is removed when the agent ends: name an empty folder, or one that is not there yet");
  }
  return {};
}

// An agent with a key is a cluster's; one without, `skein serve` started for its own machine.
Status settle(AgentFlags* flags) {
  AgentConfig& agent = flags->agent;
  NodeAgentConfig& node = flags->node;
  if (flags->lease_seconds > 0) agent.lease_seconds = flags->lease_seconds;
  if (node.key_file.empty()) {
    if (agent.coordinator.starts_with("ipc://") && !agent.run_folder.empty()) return {};
    return invalid_argument("an agent needs --coordinator tcp://HOST:PORT and --key-file; `skein keys` makes keys");
  }
  if (flags->lease_seconds == 0) agent.lease_seconds = kLaunchLeaseSeconds;
  node.key_file = std::filesystem::absolute(node.key_file).string();
  const std::string beside = (std::filesystem::path(node.key_file).parent_path() / "coordinator.pub").string();
  ASSIGN_OR_RETURN(node.keys.own, read_key_file(node.key_file));
  ASSIGN_OR_RETURN(node.keys.server_public_key,
                   read_public_key_file(flags->coordinator_key.empty() ? beside : flags->coordinator_key));
  if (agent.name == AgentConfig().name) agent.name = host_name();
  RETURN_IF_ERROR(check_node_name(agent.name).within("--name"));
  RETURN_IF_ERROR(check_paths(agent));
  agent.node = std::move(node);
  return {};
}

// Never over a file that is there: it may be in use.
Status write_keys(const std::string& folder, const std::vector<std::string>& nodes) {
  RETURN_IF_ERROR(make_folder(folder));
  const KeyPair coordinator = make_key_pair();
  RETURN_IF_ERROR(write_private_file(folder + "/coordinator.key", key_file_text(coordinator)));
  RETURN_IF_ERROR(write_private_file(folder + "/coordinator.pub", public_key_text(coordinator.public_key)));
  std::string allow_list = "# Who may connect to the coordinator: a node's name, then its public key.\n";
  for (const std::string& node : nodes) {
    const KeyPair pair = make_key_pair();
    RETURN_IF_ERROR(write_private_file(folder + "/" + node + ".key", key_file_text(pair)));
    allow_list += node + " " + pair.public_key + "\n";
  }
  return write_private_file(folder + "/allow-list", allow_list);
}

Status check_names(const std::vector<std::string>& nodes) {
  if (nodes.empty()) return invalid_argument("name the nodes to make keys for, as in: skein keys --out keys node-a node-b");
  for (const std::string& node : nodes) {
    RETURN_IF_ERROR(check_node_name(node));
    if (node == kCoordinator) {
      return invalid_argument("the node cannot be called " + node + ", as the coordinator's own files are: give it another name");
    }
    if (std::ranges::count(nodes, node) > 1) return invalid_argument("the node " + node + " is named twice");
  }
  return {};
}

}  // namespace

int agent_command(const Arguments& arguments) {
  AgentFlags flags;
  OptionTable table;
  add_agent_options(&table, &flags);
  std::vector<std::string> positional;
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein agent --coordinator tcp://HOST:PORT --key-file F [flags]\n%s", table.help().c_str());
    return 0;
  }
  Status status = table.parse(arguments, &positional);
  if (status.ok() && !positional.empty()) status = invalid_argument("what is \"" + positional[0] + "\"?");
  if (status.ok()) status = settle(&flags);
  if (status.ok()) status = run_agent(flags.agent);
  return status.ok() ? 0 : report(status);
}

int keys_command(const Arguments& arguments) {
  std::string folder;
  OptionTable table;
  table.add_text("out", "D", "folder for the key files; made if it is not there", &folder);
  std::vector<std::string> nodes;
  if (std::ranges::find(arguments, "--help") != arguments.end()) {
    std::printf("usage: skein keys --out D NODE...\n%s", table.help().c_str());
    return 0;
  }
  Status status = table.parse(arguments, &nodes);
  if (status.ok() && folder.empty()) status = invalid_argument("say where: skein keys --out D NODE...");
  if (status.ok()) status = check_names(nodes);
  if (status.ok()) status = write_keys(folder, nodes);
  if (!status.ok()) return report(status);
  std::printf("%s has coordinator.key and allow-list for the coordinator; NODE.key and coordinator.pub for each node\n",
              folder.c_str());
  return 0;
}

int look_command(const Arguments& arguments) {
  if (arguments.size() != 2) {
    std::fprintf(stderr, "usage: skein look NAME INTERFACE; an agent runs it\n");
    return 2;
  }
  const Status status = run_look(arguments[0], arguments[1]);
  return status.ok() ? 0 : report(status);
}

int rsh_command(const Arguments& arguments) {
  if (arguments.size() < 2) {
    std::fprintf(stderr, "usage: skein rsh HOST COMMAND...; mpirun runs it\n");
    return 2;
  }
  std::string command;
  for (size_t i = 1; i < arguments.size(); ++i) command += (i > 1 ? " " : "") + arguments[i];
  const Status status = run_rsh(arguments[0], command);
  return status.ok() ? 0 : report(status);
}

}  // namespace skein
