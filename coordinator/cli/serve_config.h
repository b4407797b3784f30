#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/cli/options.h"

namespace skein {

// Replicas of one shape.
struct ReplicaShape {
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
  int count = 1;
};

// Everything `skein serve` can be told, by flags or in one YAML file with the same names.
struct ServeConfig {
  std::string model;
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
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
  std::string config;

  std::vector<ReplicaShape> shapes() const;
};

void add_serve_options(OptionTable* table, ServeConfig* config);
// Flags win over the file that --config names. One positional argument: the model.
Result<ServeConfig> parse_serve_config(const std::vector<std::string>& arguments);
}  // namespace skein
