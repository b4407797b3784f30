#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace skein {

// Tokens of a step for which a pipeline's lane runs ahead of the others, on GPUs: from about so many on their products
// gain little from more, and just behind so many they need another turn of the multiprocessors. On cores lanes fill
// evenly.
inline constexpr int kGpuStepTokensEnough = 2048;

// Where a rank runs.
struct RankPlace {
  std::string node;  // name of its agent
  int device = 0;    // GPU of that node, in the driver's order; CPUs: index among the ranks of that node
};

// Everything a replica's ranks are told when they start: a JSON file that the agent hands to skein-worker.
struct ReplicaSpec {
  uint32_t replica = 0;
  uint64_t launch = 0;      // which start of that replica
  std::string coordinator;  // endpoint to register at
  std::string coordinator_key;  // its public CURVE key; empty: no encryption, for ipc:// alone
  std::string key_file;     // with a coordinator_key: the leader's own pair, on its node
  double step_seconds = 600; // that a step may take; then a rank is stuck, and the leader ends its replica
  double lease_seconds = 2; // without a sign of life for so long, the leader ends its replica

  bool probe = false;  // no model: two stages measure how they reach each other, register with that, and leave
  std::string model;               // folder or GGUF file
  std::string load_format = "auto";  // auto, dummy
  std::string device = "cpu";        // cpu, cuda
  int first_device = 0;              // rank r runs on GPU first_device + r
  std::vector<RankPlace> places;     // by rank, a node's beside each other; none: this machine, from first_device
  std::string network;               // with places: networks that join the nodes, "10.0.0.0/24", commas between them
  std::string ports = "0";           // of the ranks' listeners between nodes: "7310-7809"; "0": any
  std::vector<int64_t> rank_memory_bytes;  // by rank: what it will take of its host or GPU; none: not planned
  std::string dtype = "auto";        // auto, float32, bfloat16, float16
  std::string kv_cache_dtype = "auto";
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
  std::vector<int> stage_layers;  // of each pipeline stage; none: as even as can be

  int context_max = 0;        // prompt + generated tokens of a sequence
  int slots = 64;             // sequences that run at once
  int step_tokens_max = 512;  // tokens of one step
  int waiting_max = 1024;     // requests that wait
  int block_tokens = 16;      // tokens of a KV block
  int kv_blocks = 0;          // of every KV group; 0: as many as fit beside the weights
  double memory_share = 0.9;  // with kv_blocks 0: of the device's memory, for this replica and whoever was there before
  int64_t memory_reserve = 0; // with kv_blocks 0: bytes of that share to be left alone
  bool deterministic = false;  // a request's results are the same bits whatever else runs; on CPUs they always are
  bool prefix_caching = true;
  std::string cache_key;      // 32 hex digits; keys the prefix cache's hashes

  int threads = 1;       // of each rank
  bool spin = true;      // there is a core for each thread of each rank
  int first_core = -1;   // thread t of rank r is pinned to first_core + r * threads + t; -1: not pinned

  int ranks() const { return tensor_parallel_size * pipeline_parallel_size; }
};

// How many ranks a node has of a replica; in the order of ranks. None without places.
struct NodeShare {
  std::string node;
  int ranks = 0;
};
std::vector<NodeShare> node_shares(const ReplicaSpec& spec);
// kInvalidArgument: not one place for each rank, a device twice, ranks of a node apart from each other, layers or
// memory for another number of stages or ranks, or a probe that is no pipeline of two ranks.
Status check_shape(const ReplicaSpec& spec);

Json to_json(const ReplicaSpec& spec);
// kInvalidArgument names the key that is missing, unknown or out of range.
Result<ReplicaSpec> parse_replica_spec(const Json& json);

}  // namespace skein
