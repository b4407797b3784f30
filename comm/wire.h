#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/request.h"
#include "base/status.h"

// The frames between coordinator, agents and leaders as plain structs. Encoded with protobuf (comm/wire.proto).

namespace skein {

inline constexpr uint32_t kWireVersion = 4;
inline constexpr size_t kFrameBytesMax = size_t{64} << 20;
inline constexpr size_t kSenderBytesMax = 255;
inline constexpr uint32_t kNodeDevicesMax = 1024;  // of a node
inline constexpr uint32_t kReplicaRanksMax = 65536;   // of a replica
inline constexpr uint64_t kDeviceBytesMax = uint64_t{1} << 50;
inline constexpr uint64_t kReplicaTokensMax = uint64_t{1} << 40;

struct RegisterReplica {
  uint32_t replica = 0;
  uint64_t launch = 0;  // which start of that replica; frames of an older launch are stale
  std::string build = {};
  uint64_t numerics_id = 0;  // equal where a continuation is exact
  uint32_t ranks = 0;
  uint32_t slots = 0;
  uint64_t kv_tokens = 0;
  uint32_t context_max = 0;
  double load_seconds = 0;
  std::string transport = {};  // how its ranks reach each other: "shared memory", "TCP over 10.0.0.0/24"
  std::string samples = {};    // of a probe (ReplicaSpec::probe): base/probe.h as JSON
  std::vector<uint64_t> rank_bytes = {};  // by rank: on CPUs its own memory, on GPUs all that is in use on its own
};

// Sums over steps since a replica's launch.
struct StepWork {
  uint64_t steps = 0;
  double seconds = 0;          // each from the end of the one before, or from its start where none was in flight
  uint64_t lanes = 0;          // that had a step in flight when it ended, its own included
  uint64_t decodes = 0;        // rows of one token
  uint64_t decode_keys = 0;    // that they read
  uint64_t prompt_tokens = 0;  // of longer rows
  uint64_t prompt_keys = 0;    // that these read
  uint64_t prompt_rows = 0;    // of these tokens' logits, how many were wanted
  bool operator==(const StepWork&) const = default;
};

struct ReplicaStatus {
  uint64_t launch = 0;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_queries = 0;
  uint64_t prefix_hits = 0;
  double kv_usage = 0;
  uint64_t steps = 0;
  double starved_seconds = 0;  // the device had nothing to do although sequences ran; at most
  StepWork decode_work = {};   // of steps without prompts
  StepWork prefill_work = {};  // of the others
};

struct CancelRequest {
  uint64_t request = 0;
  uint32_t epoch = 0;
};

// "Your parent is alive."
struct Lease {};
// Leave in order: a leader stops its ranks, an agent ends its jobs.
struct Stop {};

// To a peer that this coordinator does not know, or to which frames may be lost: register (again). With another
// `instance` nobody waits any more for what a leader was asked for before.
struct Introduce {
  uint64_t instance = 0;
};

// A job, or a node's share of one, that an agent runs.
struct AgentJob {
  uint64_t launch = 0;
  uint32_t replica = 0;
  std::string identity = {};  // of the replica's specification: equal where it may be adopted
};

struct RegisterAgent {
  std::string node;
  std::string build = {};
  uint64_t instance = 0;      // of the agent's process
  std::string address = {};   // where its node is reached by others; empty: this machine
  std::string network = {};   // of that address: "10.0.0.0/24"
  std::string topology = {};  // topology/node_report.h; empty: not described
  std::vector<AgentJob> jobs = {};
};

// To an agent that cannot take part. It ends with that sentence.
struct RefuseAgent {
  std::string reason;
};

// An agent's sign of life: everything that it runs, and what that leaves of its node (topology/node_report.h).
struct AgentStatus {
  std::vector<uint64_t> launches;
  uint64_t memory_free = 0;                   // of the host; 0: not known
  std::vector<uint64_t> gpu_memory_free = {};  // in the driver's order; none: not known
  std::vector<uint32_t> held = {};            // devices on which its jobs have ranks
  uint32_t driver_silent_s = 0;               // since the GPU driver answered, where that is too long
};

struct LaunchNode {
  std::string node;
  std::string address;
  uint32_t ranks = 0;
};

// To the agent of the replica's first node: run mpirun.
struct Launch {
  uint64_t launch = 0;
  uint32_t ranks = 0;
  std::string spec;  // base/replica_spec.h as JSON
  uint32_t replica = 0;
  std::string identity = {};
  std::vector<LaunchNode> nodes = {};  // in the order of ranks; none: this machine
};

// What a launch takes of a node.
struct LaunchShare {
  std::vector<uint32_t> devices = {};
  bool gpus = false;          // they are GPUs, in the driver's order
  std::vector<uint64_t> device_bytes = {};  // that each is to hold; none: not planned
};

// From the first node's agent through the coordinator to another's: run what mpirun has for that node.
struct StartDaemon {
  AgentJob job;
  std::string node;
  std::string command;  // orted with its arguments, quoted as for a shell
  LaunchShare share = {};
};

// The answer, the other way.
struct DaemonStarted {
  uint64_t launch = 0;
  std::string node;
  std::string error = {};  // why not; empty: it runs
};

// The replica serves: its jobs now outlive a coordinator that is away.
struct LaunchReady {
  uint64_t launch = 0;
};

struct EndLaunch {
  uint64_t launch = 0;
};

struct LaunchEnded {
  uint64_t launch = 0;
  int32_t exit_status = 0;
  std::string reason = {};
};

using Frame = std::variant<RegisterReplica, ReplicaStatus, TokenFrame, GenerationRequest, CancelRequest, Lease, Stop,
                           RegisterAgent, Launch, EndLaunch, LaunchEnded, Introduce, RefuseAgent, AgentStatus,
                           StartDaemon, DaemonStarted, LaunchReady>;

// What a frame says of itself.
struct Envelope {
  uint32_t version = kWireVersion;
  std::string sender = {};  // its name; empty: the coordinator
  uint64_t number = 0;      // grows with each of the sender's frames
};

std::string encode_frame(const Frame& frame, const Envelope& envelope = {});
// kUnsupported for another version; kCorrupt for bytes that are no frame, or one whose parts contradict each other.
// *envelope is what could be read of it, also where the frame is refused.
Result<Frame> decode_frame(std::string_view bytes, Envelope* envelope = nullptr);

}  // namespace skein
