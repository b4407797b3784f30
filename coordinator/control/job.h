#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/network.h"
#include "base/status.h"
#include "comm/wire.h"
#include "coordinator/control/process.h"

namespace skein {

// One mpirun with its ranks, or one orted: a node's share of another agent's mpirun. Single-owner: the agent.
struct Job {
  using Clock = std::chrono::steady_clock;

  AgentJob id;
  std::vector<LaunchNode> nodes;  // of an mpirun over several nodes; none: of this one alone, or an orted
  std::map<std::string, LaunchShare> shares;  // by those nodes
  std::vector<uint32_t> devices;  // of this node, that its ranks are on
  pid_t pid = -1;
  LineReader errors;
  std::string folder;  // what the job and its ranks write; goes with the job
  std::string reason;  // the first sentence of a rank that failed
  std::string last_words;  // the last line, or how mpirun's last essay begins: 300 bytes of it at most
  bool rank_failed = false;  // one has said why, and is gone
  bool orted = false;
  bool ready = false;  // its replica serves
  Clock::time_point kill_at = Clock::time_point::max();

  // Takes what has been written to standard error, so many lines at most: ranks may write faster than this reads. Their
  // log lines pass through; their last words are kept; mpirun's own essays are not shown.
  void read_errors(int lines_max);
  // Why it ended with that status, for users; empty for success.
  std::string end_reason(int exit_status) const;

 private:
  // mpirun writes essays between lines of dashes, whose first paragraph says what they are about.
  enum class Place { kOutside, kOpened, kFirstParagraph, kBehind };

  void take_line(const std::string& line);
  void take_words(const std::string& line);

  Place place_ = Place::kOutside;
};

struct MpirunOptions {
  std::vector<std::string> worker;  // path and arguments of every rank's program
  std::string rsh;        // command that mpirun starts orted on other nodes with
  std::string folder;     // of the job
  PortRange ports;        // for mpirun, orted and MPI between nodes
  std::string networks;   // that join the nodes
};

std::vector<std::string> mpirun_arguments(const Launch& launch, const MpirunOptions& options);

// What mpirun and orted, and so the ranks, are given of environment.
std::map<std::string, std::string> mpi_environment(const std::string& folder);

// The words of orted's command line as mpirun quotes it. kInvalidArgument for anything that is not orted with
// arguments: no shell ever sees it.
Result<std::vector<std::string>> parse_orted_command(std::string_view command);

}  // namespace skein
