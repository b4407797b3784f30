#pragma once

#include <signal.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "topology/gpus.h"
#include "topology/node_report.h"

// The child process in which an agent asks its node's GPU driver. A call into that may never return (a GPU that has
// fallen off the bus), and then no signal ends who made it.

namespace skein {

// What the child writes: a line with the description of the node, then one for each look at its GPUs. Lines that begin
// otherwise are somebody else's.
inline constexpr std::string_view kDescriptionLine = "description ";  // then a report, topology/node_report.h
inline constexpr std::string_view kLookLine = "look ";

struct NodeLook {
  int64_t begun_ns = 0;  // on the steady clock, which processes share
  std::vector<Gpu> gpus;  // as GpuWatch has them
};

// Without the word before it.
std::string to_text(const NodeLook& look);
Result<NodeLook> parse_node_look(std::string_view text);

// `skein look NAME INTERFACE`: describes this node, called `name`, whose NIC towards others is `interface`; then looks
// every two seconds, and at once when it gets kLookSignal, which it takes from its first line on. Returns when it
// cannot write any more.
inline constexpr int kLookSignal = SIGUSR1;
Status run_look(const std::string& name, const std::string& interface);

}  // namespace skein
