#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/replica_spec.h"
#include "base/status.h"
#include "coordinator/cli/options.h"

namespace skein {

// Replicas of one shape.
struct ReplicaShape {
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
  int count = 1;
  std::vector<int> stage_layers = {};  // of each pipeline stage; none: as even as can be
  std::vector<RankPlace> places = {};  // by rank, of a cluster's nodes; none: this machine
};

// What a model on a cluster is asked for.
struct AskedModel {
  std::string model;
  double request_rate = 0;  // requests/s; 0: as many as can be served
  int input_len = 1024;
  int output_len = 256;
  double ttft_ms = 0;       // wanted; 0: any
  double itl_ms = 0;
  int tensor_parallel_size = 0;    // of one of several models; 0: as for all
  int pipeline_parallel_size = 0;
};

inline constexpr char kClusterHere[] = "here";  // in the place of a cluster file: this machine as it is found

// Where replicas go, when a cluster is described.
struct PlacementConfig {
  std::string cluster;                   // file, or kClusterHere; empty: nothing is planned
  std::string plan;                      // `skein serve`: file with the placement in JSON; empty: the best one
  bool replan = false;                   // and where the cluster is another now, plan again and write it there
  std::vector<std::string> nodes;        // of it that may be used; empty: all
  std::vector<std::string> calibration;  // files over those that come with the program
  std::string objective = "auto";        // auto: fewest-devices with a request rate, else goodput
  AskedModel asked;                      // what the flags say, but for the model's name
  std::vector<AskedModel> models;        // YAML only: several models on one cluster
};

// Everything `skein serve` and `skein plan` can be told, by flags or in one YAML file with the same names.
struct ServeConfig {
  std::string model;
  int tensor_parallel_size = 0;        // 0: 1, on a described cluster what is best
  int pipeline_parallel_size = 0;
  int data_parallel_size = 1;          // replicas of that shape
  std::vector<ReplicaShape> replicas;  // YAML only; instead of the three above
  std::string device = "auto";
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  std::string load_format = "auto";
  std::string host = "127.0.0.1";
  int port = 8000;                     // 0: any
  std::optional<int64_t> max_model_len;
  std::optional<int64_t> max_num_seqs;            // per replica; else 64, on GPUs 256
  std::optional<int64_t> max_num_batched_tokens;  // per step; else 512, on GPUs 8192
  int max_waiting_requests = 1024;     // in the server
  std::optional<int64_t> kv_cache_memory_bytes;  // per rank
  double gpu_memory_utilization = 0.9;  // share of a GPU's memory for its rank and whoever was there before
  std::optional<int64_t> block_size;    // tokens of a KV block; else 16, on GPUs 64
  bool deterministic = false;
  bool no_prefix_caching = false;
  int64_t threads_per_rank = 0;        // 0: cores / ranks
  std::string served_model_name;
  std::string api_key_file;
  bool insecure = false;               // serve beyond this machine without a key
  std::string chat_template;           // file
  std::vector<std::string> allowed_origins;
  double drain_seconds = 30;
  double startup_timeout = 600;        // seconds a replica may take to load
  double step_timeout = 0;             // seconds a step may take; 0: 600, on GPUs 60
  double nodes_timeout = 60;           // seconds that agents have to come, where they are asked what nodes have
  std::string listen;                  // where agents of several nodes come to, tcp://ADDRESS:PORT; empty: one machine
  std::string key_file;                // with listen: this coordinator's pair
  std::string allow_list;              // with listen: the agents' names and public keys
  std::string ports = "7310-7809";     // between nodes: of mpirun, orted, MPI and ranks
  double orphan_timeout = 600;         // seconds that replicas of a cluster live on without a coordinator
  std::string config;
  PlacementConfig placement;
  std::set<std::string> flags;         // names of those on the command line

  std::vector<ReplicaShape> shapes() const;
  bool clustered() const { return !listen.empty(); }
  // The planner places replicas, on a described cluster or on the nodes of the agents that come.
  bool placed() const { return !placement.cluster.empty() || gathered(); }
  bool gathered() const { return clustered() && placement.cluster.empty() && replicas.empty(); }
};

// Where agents come to, and what they are told.
void add_listen_options(OptionTable* table, ServeConfig* config);
void add_serve_options(OptionTable* table, ServeConfig* config);
// What of that has a meaning where a command runs a model by itself, on this machine and for as long as it lasts.
void add_local_options(OptionTable* table, ServeConfig* config);
void add_placement_options(OptionTable* table, PlacementConfig* placement);
// What the file says, of all that `skein serve` takes.
Status read_serve_file(const std::string& path, ServeConfig* config);
// Whether what it says of nodes and places fits together.
Status check_nodes(const ServeConfig& config);
// Flags win over the file that --config names. One positional argument, which may be missing: the model. `table`
// has the options of `config`.
Status parse_serve_config(const std::vector<std::string>& arguments, const OptionTable& table, ServeConfig* config);
// The same for a command that runs a model by itself: the file may hold what it holds for `skein serve`, but no
// listen. `table` has add_local_options() and what else the command takes. No model: it stays empty.
Status parse_local_config(const std::vector<std::string>& arguments, const OptionTable& table, ServeConfig* config);
// Whether a model is named, or several.
Status check_model(const ServeConfig& config);
// All that `skein serve` takes.
OptionTable serve_options(ServeConfig* config);
Result<ServeConfig> parse_serve_config(const std::vector<std::string>& arguments);

}  // namespace skein
