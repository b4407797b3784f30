#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/request.h"
#include "base/status.h"

// The frames between coordinator, agents and leaders as plain structs. Encoded with protobuf (comm/wire.proto).

namespace skein {

inline constexpr uint32_t kWireVersion = 1;
inline constexpr size_t kFrameBytesMax = size_t{64} << 20;

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
};

struct CancelRequest {
  uint64_t request = 0;
  uint32_t epoch = 0;
};

struct Lease {};
struct Stop {};

struct RegisterAgent {
  std::string node;
  std::string build = {};
};

struct Launch {
  uint64_t launch = 0;
  uint32_t ranks = 0;
  std::string spec;  // base/replica_spec.h as JSON
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
                           RegisterAgent, Launch, EndLaunch, LaunchEnded>;

std::string encode_frame(const Frame& frame);
// kCorrupt for bytes that are no frame, another version, or a frame whose parts contradict each other.
Result<Frame> decode_frame(std::string_view bytes);

}  // namespace skein
