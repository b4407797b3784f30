#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/lease_watch.h"
#include "base/replica_spec.h"
#include "base/status.h"
#include "comm/wire.h"
#include "coordinator/control/node_look.h"
#include "coordinator/control/process.h"

namespace skein {

// What `spec` takes of a node.
LaunchShare share_of(const ReplicaSpec& spec, const std::string& node);

// Whether the devices of a share are there, run our kernels and have the memory. kResourceExhausted, kUnsupported: one
// sentence with the remedy.
Status check_share(const LaunchShare& share, const std::vector<Gpu>& gpus);

// Of a driver that has not answered for so long.
std::string silent_driver(uint32_t seconds);

// An agent's eyes on its node: a child process (coordinator/control/node_look.h) asks the GPU driver, is killed when
// that does not answer in time, and is started again once it is gone. Nothing but describe() waits. Single-owner: the
// agent.
class NodeWatch {
 public:
  using Clock = std::chrono::steady_clock;

  // `driver_seconds`: that the driver may take to answer.
  NodeWatch(std::string name, std::string interface, double driver_seconds);

  // Starts the child. RegisterAgent::topology, as soon as it comes; one without hardware where the driver does not
  // answer.
  std::string describe();
  // Call at least each 500 ms. A description that came since, of a child that was started again or slow.
  std::optional<std::string> turn(Clock::time_point now);
  // Readable when turn() has something to do; -1: not open.
  int fd() const { return lines_.fd; }
  pid_t pid() const { return child_; }
  void ended();  // the child, and the caller has waited for it

  // Fills in what is free as of the last look, which is at most `driver_seconds` old, or for how long the driver has
  // not answered.
  void tell(Clock::time_point now, AgentStatus* status);
  // Asks for a look that begins now; knows(): it has come, or the driver does not answer.
  void ask() const;
  bool knows(Clock::time_point asked, Clock::time_point now);
  // check_share() of this node's GPUs as of the last look. kUnavailable: the driver does not answer, or has lost one.
  Status check(const LaunchShare& share, Clock::time_point now);

  // A line that the child wrote.
  void take(std::string_view line, Clock::time_point now);

 private:
  void start(Clock::time_point now);
  uint32_t silent_seconds(Clock::time_point now);

  const std::string name_;
  const std::string interface_;
  const Clock::duration patience_;
  pid_t child_ = -1;
  LineReader lines_;
  Clock::time_point started_;  // the child
  LeaseWatch answers_;         // of the driver
  bool complained_ = false;
  std::optional<std::string> description_;  // not taken yet
  std::optional<NodeLook> look_;            // the last
  bool looked_ = false;                     // the child
  std::vector<std::string> gpus_;           // UUIDs, as the first look that showed any counted them
  Clock::duration restart_period_ = std::chrono::seconds(1);  // longer after one that could not be started
};

}  // namespace skein
