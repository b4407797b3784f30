#include "coordinator/cli/serve_config.h"

#include <algorithm>
#include <optional>

#include "base/network.h"
#include "base/parse_number.h"
#include "base/yaml.h"
#include "model/mapped_file.h"

namespace skein {
namespace {

constexpr size_t kConfigBytesMax = 1 << 20;

std::string flag_name(std::string_view key) {
  std::string name(key);
  std::ranges::replace(name, '_', '-');
  return name;
}

Status at_line(const Status& status, const std::string& path, int line) {
  return status.within(path + ":" + std::to_string(line));
}

Result<std::string> scalar_text(const Yaml& value) {
  if (value.kind == Yaml::Kind::kScalar) return value.scalar;
  if (value.kind != Yaml::Kind::kList) return invalid_argument("must be a value or a list of values");
  std::string text;
  for (const Yaml& item : value.list) {
    if (item.kind != Yaml::Kind::kScalar) return invalid_argument("must be a list of plain values");
    text += (text.empty() ? "" : ",") + item.scalar;
  }
  return text;
}

// "node-a:0"
Result<RankPlace> parse_place(const std::string& text) {
  const size_t colon = text.rfind(':');
  RankPlace place;
  const auto device = parse_number<int>(std::string_view(text).substr(std::min(colon, text.size() - 1) + 1));
  if (colon == std::string::npos || colon == 0 || !device || *device < 0 || *device > 1023) {
    return invalid_argument("\"" + text + "\" is no place of a rank: write NODE:DEVICE, as in node-a:0");
  }
  place.device = *device;
  place.node = text.substr(0, colon);
  return place;
}

Result<std::vector<RankPlace>> read_places(const Yaml& value) {
  if (value.kind != Yaml::Kind::kList) return invalid_argument("places must be a list with NODE:DEVICE for each rank");
  std::vector<RankPlace> places;
  for (const Yaml& item : value.list) {
    if (item.kind != Yaml::Kind::kScalar || item.scalar.empty()) {
      return invalid_argument("places must be a list with NODE:DEVICE for each rank");
    }
    ASSIGN_OR_RETURN(places.emplace_back(), parse_place(item.scalar));
  }
  return places;
}

Result<std::vector<int>> read_stage_layers(const Yaml& value) {
  const Status wrong = invalid_argument("stage_layers must be a list with the number of layers of each stage, as in [17, 15]");
  if (value.kind != Yaml::Kind::kList) return wrong;
  std::vector<int> layers;
  for (const Yaml& item : value.list) {
    const std::optional<int> count = parse_number<int>(item.scalar);
    if (item.kind != Yaml::Kind::kScalar || count.value_or(0) < 1) return wrong;
    layers.push_back(*count);
  }
  return layers;
}

Status check(const ReplicaShape& shape) {
  if (!shape.places.empty() && shape.count != 1) {
    return invalid_argument("a replica with places is one: write it again for another");
  }
  ReplicaSpec spec;
  spec.tensor_parallel_size = shape.tensor_parallel_size;
  spec.pipeline_parallel_size = shape.pipeline_parallel_size;
  spec.stage_layers = shape.stage_layers;
  spec.places = shape.places;
  return check_shape(spec);
}

void add_load_options(OptionTable* table, AskedModel* asked) {
  constexpr double kRateMax = 1e9;
  table->add_real("request-rate", "requests/s to plan for; 0: as many as can be served", 0, kRateMax, &asked->request_rate);
  table->add_integer("input-len", "prompt tokens of a request, to plan for", 1, 1 << 24, &asked->input_len);
  table->add_integer("output-len", "generated tokens of a request, to plan for", 1, 1 << 24, &asked->output_len);
  table->add_real("ttft-ms", "mean time to the first token that is wanted; 0: any", 0, kRateMax, &asked->ttft_ms);
  table->add_real("itl-ms", "mean time between tokens that is wanted; 0: any", 0, kRateMax, &asked->itl_ms);
}

Status read_replicas(const Yaml& value, const std::string& path, std::vector<ReplicaShape>* shapes) {
  if (value.kind != Yaml::Kind::kList || value.list.empty()) {
    return at_line(invalid_argument("replicas must be a list of shapes"), path, value.line);
  }
  for (const Yaml& item : value.list) {
    if (item.kind != Yaml::Kind::kMap) {
      return at_line(invalid_argument("a replica must be a map, as in {tensor_parallel_size: 2, count: 1}"), path,
                     item.line);
    }
    ReplicaShape shape;
    OptionTable table;
    table.add_integer("tensor-parallel-size", "", 1, 1024, &shape.tensor_parallel_size);
    table.add_integer("pipeline-parallel-size", "", 1, 1024, &shape.pipeline_parallel_size);
    table.add_integer("count", "", 1, 1024, &shape.count);
    for (const Yaml::Member& member : item.map) {
      if (member.key == "places") {
        Result<std::vector<RankPlace>> places = read_places(member.value);
        if (!places.ok()) return at_line(places.status(), path, member.line);
        shape.places = std::move(*places);
        continue;
      }
      if (member.key == "stage_layers") {
        Result<std::vector<int>> layers = read_stage_layers(member.value);
        if (!layers.ok()) return at_line(layers.status(), path, member.line);
        shape.stage_layers = std::move(*layers);
        continue;
      }
      if (member.value.kind != Yaml::Kind::kScalar) {
        return at_line(invalid_argument(member.key + " must be a number"), path, member.line);
      }
      RETURN_IF_ERROR(at_line(table.apply(flag_name(member.key), member.value.scalar, ""), path, member.line));
    }
    RETURN_IF_ERROR(at_line(check(shape), path, item.line));
    shapes->push_back(std::move(shape));
  }
  return {};
}

// What a cluster needs, and one machine does not have.
Status check_cluster(const ServeConfig& config) {
  const std::vector<ReplicaShape> shapes = config.shapes();
  const bool placed = std::ranges::any_of(shapes, [](const ReplicaShape& shape) { return !shape.places.empty(); });
  if (!config.clustered()) {
    if (placed) return invalid_argument("places name a cluster's nodes: give listen, too, for their agents to come to");
    return {};
  }
  for (const std::string_view all : {"*", "0.0.0.0", "[::]"}) {
    if (config.listen.starts_with("tcp://" + std::string(all) + ":")) {
      return invalid_argument("listen " + config.listen + " is every interface: name the one between the nodes, by address or name");
    }
  }
  const size_t colon = config.listen.rfind(':');
  if (!config.listen.starts_with("tcp://") || colon < 7 || colon + 1 == config.listen.size()) {
    return invalid_argument("listen must be tcp://ADDRESS:PORT or tcp://INTERFACE:PORT, not " + config.listen);
  }
  if (config.key_file.empty() || config.allow_list.empty()) {
    return invalid_argument("listen needs key-file and allow-list; `skein keys` makes both");
  }
  RETURN_IF_ERROR(parse_port_range(config.ports).status());
  for (const ReplicaShape& shape : shapes) {
    if (!shape.places.empty() || config.placed()) continue;
    return invalid_argument("with listen each of the replicas needs places, a list with NODE:DEVICE for each rank; or leave "
                            "replicas out, and they are placed where they do best");
  }
  return {};
}

Status check_placement(const ServeConfig& config) {
  if (config.flags.contains("nodes") && config.placement.nodes.empty()) {
    return invalid_argument("--nodes is empty: name the nodes that may be used, or leave the flag out for all");
  }
  if (config.placement.replan && config.placement.plan.empty()) {
    return invalid_argument("replan writes the file that --plan names: name one");
  }
  if (config.placed()) {
    if (!config.replicas.empty()) {
      return invalid_argument("replicas and cluster both say where replicas go: leave one of them out");
    }
    if (config.data_parallel_size != 1) {
      return invalid_argument("the planner chooses the number of replicas: say what it plans for with request-rate, or on "
                              "what with nodes, instead of data-parallel-size");
    }
    return {};
  }
  if (!config.placement.models.empty()) {
    return invalid_argument("several models share a described cluster; name its file with --cluster, or `--cluster here`");
  }
  if (config.placement.plan.empty()) return {};
  return invalid_argument("a plan holds for a cluster: name the file that describes it with --cluster, or `--cluster here`");
}

Status read_models(const Yaml& value, const std::string& path, PlacementConfig* placement) {
  if (value.kind != Yaml::Kind::kList || value.list.empty()) {
    return at_line(invalid_argument("models must be a list, as in [{model: FOLDER, request_rate: 5}]"), path, value.line);
  }
  for (const Yaml& item : value.list) {
    if (item.kind != Yaml::Kind::kMap) {
      return at_line(invalid_argument("a model must be a map, as in {model: FOLDER, request_rate: 5}"), path, item.line);
    }
    AskedModel asked = placement->asked;
    OptionTable table;
    table.add_text("model", "MODEL", "", &asked.model);
    table.add_integer("tensor-parallel-size", "", 1, 1024, &asked.tensor_parallel_size);
    table.add_integer("pipeline-parallel-size", "", 1, 1024, &asked.pipeline_parallel_size);
    add_load_options(&table, &asked);
    for (const Yaml::Member& member : item.map) {
      const Result<std::string> text = scalar_text(member.value);
      if (!text.ok()) return at_line(text.status().within(member.key), path, member.line);
      RETURN_IF_ERROR(at_line(table.apply(flag_name(member.key), *text, ""), path, member.line));
    }
    if (asked.model.empty()) return at_line(invalid_argument("this model needs its name, as in model: FOLDER"), path, item.line);
    placement->models.push_back(asked);
  }
  return {};
}

Status read_config_file(const std::string& path, const OptionTable& table, ServeConfig* config) {
  ASSIGN_OR_RETURN(const std::string text, read_file(path, kConfigBytesMax));
  Result<Yaml> yaml = parse_yaml(text);
  if (!yaml.ok()) return yaml.status().within(path);
  if (yaml->kind == Yaml::Kind::kNull) return {};
  if (yaml->kind != Yaml::Kind::kMap) return invalid_argument(path + ": must be a map of settings");
  for (const Yaml::Member& member : yaml->map) {
    if (member.key == "replicas") {
      RETURN_IF_ERROR(read_replicas(member.value, path, &config->replicas));
      continue;
    }
    if (member.key == "models") {
      RETURN_IF_ERROR(read_models(member.value, path, &config->placement));
      continue;
    }
    if (member.key == "config") return at_line(invalid_argument("config cannot name another file"), path, member.line);
    const Result<std::string> value = scalar_text(member.value);
    if (!value.ok()) return at_line(value.status().within(member.key), path, member.line);
    RETURN_IF_ERROR(at_line(table.apply(flag_name(member.key), *value, ""), path, member.line));
  }
  return {};
}

// `flags` and `file`: options of `config`, on the command line and in the file that --config names.
Status parse_over_file(const std::vector<std::string>& arguments, const OptionTable& flags, const OptionTable& file,
                       ServeConfig* config) {
  const ServeConfig defaults = *config;
  std::vector<std::string> positional;
  RETURN_IF_ERROR(flags.parse(arguments, &positional, &config->flags));
  if (!config->config.empty()) {
    // Once more from the start, so that flags win over the file.
    const std::string path = config->config;
    *config = defaults;
    RETURN_IF_ERROR(read_config_file(path, file, config));
    positional.clear();
    RETURN_IF_ERROR(flags.parse(arguments, &positional, &config->flags));
  }
  if (positional.size() > 1) {
    return invalid_argument("one model, please: what is \"" + positional[1] + "\"?");
  }
  if (!positional.empty()) config->model = positional[0];
  return {};
}

Status check_one_model(const ServeConfig& config) {
  if (config.placement.models.empty()) return {};
  return invalid_argument("one server serves one model: plan several with `skein plan --format json`, and serve each "
                          "with --plan");
}

}  // namespace

std::vector<ReplicaShape> ServeConfig::shapes() const {
  if (!replicas.empty()) return replicas;
  return {{std::max(tensor_parallel_size, 1), std::max(pipeline_parallel_size, 1), data_parallel_size}};
}

void add_listen_options(OptionTable* table, ServeConfig* config) {
  table->add_text("listen", "E", "work with the agents of several nodes, which come to tcp://ADDRESS:PORT",
                  &config->listen);
  table->add_real("nodes-timeout", "with listen: seconds to wait for agents that are asked what their nodes have", 1, 86400,
                  &config->nodes_timeout);
  table->add_text("key-file", "F", "with listen: this coordinator's keys, of `skein keys`", &config->key_file);
  table->add_text("allow-list", "F", "with listen: names and public keys of the agents", &config->allow_list);
  table->add_text("ports", "FIRST-LAST", "ports of ranks and MPI between nodes; 0: any", &config->ports);
}

void add_replica_options(OptionTable* table, ServeConfig* config) {
  table->add_text("model", "MODEL", "a Hugging Face folder, a GGUF file, or a name in the local hub cache",
                  &config->model);
  table->add_integer("tensor-parallel-size", "ranks that share each layer", 1, 1024, &config->tensor_parallel_size);
  table->add_integer("pipeline-parallel-size", "stages of layers", 1, 1024, &config->pipeline_parallel_size);
  table->add_integer("data-parallel-size", "replicas", 1, 1024, &config->data_parallel_size);
  table->add_choice("device", "where ranks run; auto: on GPUs where there are any; the plan says why not",
                    {"auto", "cpu", "cuda"}, &config->device);
  table->add_choice("dtype", "how weights are kept; auto: as in the file, on GPUs bfloat16", {"auto", "float32", "bfloat16", "float16"},
                    &config->dtype);
  table->add_choice("kv-cache-dtype", "of the KV cache; auto: float16, float32 with --dtype float32, on GPUs bfloat16",
                    {"auto", "float32", "bfloat16", "float16"}, &config->kv_cache_dtype);
  table->add_choice("load-format", "dummy: random weights, only config.json is needed", {"auto", "dummy"},
                    &config->load_format);
  table->add_integer("max-model-len", "tokens of prompt and answer together", 1, INT32_MAX, &config->max_model_len);
  table->add_integer("max-num-seqs",
                     "sequences that a replica runs at once; default 64, on GPUs 256, and with more than 512 decoding at "
                     "once a GPU waits for the host in every step",
                     1, 4096, &config->max_num_seqs);
  table->add_integer("max-num-batched-tokens", "tokens of one step; default 512, on GPUs 8192", 1, 1 << 20,
                     &config->max_num_batched_tokens);
  table->add_integer("kv-cache-memory-bytes", "KV cache of each rank", 1, INT64_MAX, &config->kv_cache_memory_bytes);
  table->add_real("gpu-memory-utilization", "share of a GPU's memory that its rank may fill", 0.05, 0.98,
                  &config->gpu_memory_utilization);
  table->add_integer("block-size",
                     "tokens of a KV block; default 16, on GPUs 64, where others than 16, 32 and 64 make attention slow",
                     1, 256, &config->block_size);
  table->add_switch("deterministic",
                    "the same bits for a request whatever else runs, at a price on GPUs; on CPUs always so",
                    &config->deterministic);
  table->add_switch("no-prefix-caching", "compute every prompt anew", &config->no_prefix_caching);
  table->add_integer("threads-per-rank", "CPU threads of each rank; 0: cores / ranks", 0, 1024,
                     &config->threads_per_rank);
  table->add_real("startup-timeout", "seconds that a replica may take to load", 1, 86400, &config->startup_timeout);
  table->add_real("step-timeout", "seconds that a step may take before its replica is taken for stuck, ended and started "
                  "again; 0: 600, on GPUs 60", 0, 86400, &config->step_timeout);
}

void add_serve_options(OptionTable* table, ServeConfig* config) {
  add_replica_options(table, config);
  table->add_text("host", "ADDRESS", "address to listen on", &config->host);
  table->add_integer("port", "port to listen on; 0: any free one", 0, 65535, &config->port);
  table->add_integer("max-waiting-requests", "requests that the server holds; more get 429", 1, 1 << 20,
                     &config->max_waiting_requests);
  table->add_text("served-model-name", "S", "name of the model in the API", &config->served_model_name);
  table->add_text("api-key-file", "F", "file with one API key a line", &config->api_key_file);
  table->add_switch("insecure", "allow an address beyond this machine without an API key", &config->insecure);
  table->add_text("chat-template", "F", "file with a Jinja chat template", &config->chat_template);
  table->add_list("allowed-origins", "origins that browsers may call from", &config->allowed_origins);
  table->add_real("drain-seconds", "how long running requests may go on after SIGTERM", 0, 86400,
                  &config->drain_seconds);
  add_listen_options(table, config);
  table->add_real("orphan-timeout", "with listen: seconds that replicas live on without a coordinator", 1, 86400,
                  &config->orphan_timeout);
  table->add_text("config", "F", "YAML file with these settings", &config->config);
}

void add_local_options(OptionTable* table, ServeConfig* config) {
  add_replica_options(table, config);
  table->add_text("config", "F", "YAML file with settings of `skein serve`; where it listens and whom it serves does not count here",
                  &config->config);
}

void add_placement_options(OptionTable* table, PlacementConfig* placement) {
  table->add_text("cluster", "F", "file that describes the cluster (configs/clusters/), or here: this machine as it is found",
                  &placement->cluster);
  table->add_list("nodes", "what may be used of the cluster: NODE, or of its GPUs NODE:FIRST-LAST; default: all",
                  &placement->nodes);
  table->add_list("calibration", "files with what devices and links were measured to reach, over our own",
                  &placement->calibration);
  table->add_choice("objective", "of the placement; auto: fewest-devices where a request rate is given, else goodput",
                    {"auto", "goodput", "fewest-devices", "latency"}, &placement->objective);
  add_load_options(table, &placement->asked);
}

Status read_serve_file(const std::string& path, ServeConfig* config) {
  return read_config_file(path, serve_options(config), config);
}

Status check_nodes(const ServeConfig& config) {
  RETURN_IF_ERROR(check_placement(config));
  return check_cluster(config);
}

Status parse_serve_config(const std::vector<std::string>& arguments, const OptionTable& table, ServeConfig* config) {
  RETURN_IF_ERROR(parse_over_file(arguments, table, table, config));
  if (!config->model.empty() && !config->placement.models.empty()) {
    return invalid_argument("models and a single model, " + config->model + ", are both named: leave one of them out");
  }
  return check_nodes(*config);
}

Status check_model(const ServeConfig& config) {
  if (!config.model.empty() || !config.placement.models.empty()) return {};
  return invalid_argument("which model? Name a Hugging Face folder, a GGUF file, or a name in the local hub cache");
}

Status parse_local_config(const std::vector<std::string>& arguments, const OptionTable& table, ServeConfig* config) {
  RETURN_IF_ERROR(parse_over_file(arguments, table, serve_options(config), config));
  if (config->clustered()) {
    return invalid_argument("listen in " + config->config + " waits for agents of other nodes, and this command runs on "
                            "this machine alone: give it a file without listen");
  }
  RETURN_IF_ERROR(check_nodes(*config));
  return check_one_model(*config);
}

OptionTable serve_options(ServeConfig* config) {
  OptionTable table;
  add_serve_options(&table, config);
  add_placement_options(&table, &config->placement);
  table.add_text("plan", "F", "placement to start, of `skein plan --format json`; default: the best one",
                 &config->placement.plan);
  table.add_switch("replan", "where the file of --plan is missing, or the cluster is another now: plan again, keep what can "
                   "stay, and write the file", &config->placement.replan);
  return table;
}

Result<ServeConfig> parse_serve_config(const std::vector<std::string>& arguments) {
  ServeConfig config;
  RETURN_IF_ERROR(parse_serve_config(arguments, serve_options(&config), &config));
  RETURN_IF_ERROR(check_model(config));
  RETURN_IF_ERROR(check_one_model(config));
  return config;
}

}  // namespace skein
