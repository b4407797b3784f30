#include "coordinator/cli/serve_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <span>
#include <sstream>

#include "base/cuda_limits.h"
#include "base/log.h"
#include "coordinator/cli/plan_text.h"
#include "coordinator/control/nodes.h"
#include "topology/calibration.h"
#include "topology/contradictions.h"
#include "topology/shapes.h"

namespace skein {
namespace {

constexpr int64_t kMemoryReserve = int64_t{512} << 20;  // for the system and this process

constexpr int64_t kUnknownMemory = int64_t{1} << 50;
constexpr int64_t kDriverHolds = int64_t{1} << 30;  // of a GPU that nobody uses, at most

#ifdef SKEIN_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

// "cpu" or "cuda": what the planner chose for all replicas.
Result<std::string> placed_device(const Placement& placement) {
  const UsedDevices used = used_devices(placement);
  if (used.gpus && used.cores) {
    return unsupported("the plan has replicas on GPUs and on CPUs, and one server runs on one kind: name the nodes with --nodes");
  }
  if (used.gpus && !kBuiltWithCuda) {
    return unsupported("the plan is for GPUs and this build has no CUDA backend: build it with scripts/build cuda");
  }
  return std::string(used.gpus ? "cuda" : "cpu");
}

Result<const Node*> node_of(const RankPlace& place, const Cluster& nodes) {
  const int index = find_node(nodes, place.node);
  if (index >= 0) return &nodes.nodes[static_cast<size_t>(index)];
  return unavailable("a rank goes to " + place.node + ", which no agent has described: start `skein agent` there, see why the one that is there cannot, or " + kSayDevice);
}

// As check_gpu_formats(), and CPUs as a way out.
Status check_formats(const ServeConfig& config) {
  const Status formats = check_gpu_formats(config);
  return formats.ok() ? formats : unsupported(formats.message() + ", or --device cpu");
}

// Null: it is not set.
const char* visible_devices() { return std::getenv("CUDA_VISIBLE_DEVICES"); }

// Of one of the machine's.
std::string name_of(const Gpu& gpu, const Machine& machine) {
  return gpu_name(machine.gpus, static_cast<size_t>(&gpu - machine.gpus.data()), visible_devices());
}

std::string unsupported_gpu(const Gpu& gpu, const Machine& machine) {
  return name_of(gpu, machine) + " has compute capability " + std::to_string(gpu.compute_major) + "." +
         std::to_string(gpu.compute_minor) + ", and the CUDA backend needs 9.0 (H100, H200, GH200)";
}

// What "auto" is on this machine; `notes` says why not GPUs, where a user may think so.
Result<std::string> device_here(const ServeConfig& config, const Machine& machine, std::vector<std::string>* notes) {
  if (!kBuiltWithCuda) return std::string("cpu");
  const auto old = std::ranges::find_if_not(machine.gpus, &Gpu::supported);
  if (!machine.gpus.empty() && old == machine.gpus.end()) {
    RETURN_IF_ERROR(check_formats(config));
    return std::string("cuda");
  }
  for (std::string& note : *notes) note += "; this runs on CPUs";
  if (old != machine.gpus.end()) {
    const bool others = std::ranges::any_of(machine.gpus, &Gpu::supported);
    notes->push_back(unsupported_gpu(*old, machine) + (others ? ": name only the others in CUDA_VISIBLE_DEVICES" : "") +
                     "; this runs on CPUs");
  }
  return std::string("cpu");
}

// "cpu" or "cuda". `notes`: what is known of GPUs that do not answer or are hidden; what is not expected is added.
Result<std::string> choose_device(const ServeConfig& config, const Machine& machine, const Cluster* nodes,
                                  std::vector<std::string>* notes) {
  if (config.clustered() && config.device == "auto" && kBuiltWithCuda) {
    if (nodes == nullptr) {
      return invalid_argument(std::string("`skein serve` asks the agents whether places are GPUs; here ") + kSayDevice);
    }
    ASSIGN_OR_RETURN(std::string device, device_of_places(config, *nodes));
    if (device == "cuda") RETURN_IF_ERROR(check_formats(config));
    return device;
  }
  if (config.clustered() && config.device != "cuda") return std::string("cpu");
  if (config.device == "auto") return device_here(config, machine, notes);
  if (config.device == "cpu") return std::string("cpu");
  if (!kBuiltWithCuda) {
    return unsupported("this build has no CUDA backend: use --device cpu, or build it with scripts/build cuda");
  }
  if (machine.gpus.empty() && !config.clustered()) {
    return unsupported("no NVIDIA GPU with a driver was found on this machine" +
                       (notes->empty() ? "" : " (" + notes->front() + ")") + ": use --device cpu");
  }
  for (const Gpu& gpu : machine.gpus) {
    if (gpu.supported() || config.clustered()) continue;
    return unsupported(unsupported_gpu(gpu, machine) + ": use --device cpu, or name only others in CUDA_VISIBLE_DEVICES");
  }
  RETURN_IF_ERROR(check_formats(config));
  return std::string("cuda");
}

// Of this machine's GPUs, for whoever does not ask for CPUs.
std::vector<std::string> gpu_notes(const ServeConfig& config, const Machine& machine, const char* visible) {
  if (!kBuiltWithCuda || config.device == "cpu" || config.clustered()) return {};
  std::vector<std::string> notes = machine.gpu_faults;
  if (std::string hidden = hidden_gpus(machine.gpus, visible); !hidden.empty()) notes.push_back(std::move(hidden));
  return notes;
}

// Defaults that depend on the device.
void settle(ServeConfig* config) {
  const bool gpu = config->device == "cuda";
  if (!config->max_num_seqs) config->max_num_seqs = gpu ? 256 : 64;
  if (!config->max_num_batched_tokens) config->max_num_batched_tokens = default_step_tokens(gpu);
  if (!config->block_size) config->block_size = gpu ? 64 : 16;
  if (config->step_timeout == 0) config->step_timeout = gpu ? 60 : 600;
}

// What each rank of a GPU may take, from the share of it that was asked for and what others hold already.
Result<int64_t> gpu_memory(const ServeConfig& config, const Machine& machine, int all_ranks) {
  const int there = static_cast<int>(machine.gpus.size());
  if (all_ranks > there) {
    return unsupported("the replicas need " + std::to_string(all_ranks) + " GPUs and this machine has " +
                       std::to_string(there) +
                       ": lower tensor-parallel-size, pipeline-parallel-size or data-parallel-size");
  }
  int64_t least = INT64_MAX;
  for (const Gpu& gpu : std::span(machine.gpus).first(static_cast<size_t>(all_ranks))) {
    const auto share = static_cast<int64_t>(config.gpu_memory_utilization * static_cast<double>(gpu.memory_total));
    least = std::min(least, share - (gpu.memory_total - gpu.memory_free));
  }
  return least;
}

// Of the GPU that has the least for a rank, where others hold memory of it: MemoryRequest::held.
std::string held_memory(const ServeConfig& config, const Machine& machine, int all_ranks) {
  size_t least = 0;
  const auto usable = [&](size_t i) {
    return config.gpu_memory_utilization * static_cast<double>(machine.gpus[i].memory_total) -
           static_cast<double>(machine.gpus[i].memory_total - machine.gpus[i].memory_free);
  };
  for (size_t i = 1; i < static_cast<size_t>(all_ranks); ++i) {
    if (usable(i) < usable(least)) least = i;
  }
  const Gpu& gpu = machine.gpus[least];
  if (gpu.memory_total - gpu.memory_free <= kDriverHolds) return "";
  return name_of(gpu, machine) + " has " + readable_bytes(gpu.memory_free) + " of " +
         readable_bytes(gpu.memory_total) + " free, as other processes hold the rest: choose another GPU with "
         "CUDA_VISIBLE_DEVICES, end them";
}

// Of each rank's GPU on the agents' nodes, what it may take.
Result<std::vector<int64_t>> gpu_memories(const ServeConfig& config, const ReplicaShape& shape, const Cluster& nodes) {
  std::vector<int64_t> memories;
  for (const RankPlace& place : shape.places) {
    ASSIGN_OR_RETURN(const Node* node, node_of(place, nodes));
    if (place.device >= static_cast<int>(node->devices.size())) {
      return invalid_argument("a rank goes to GPU " + std::to_string(place.device) + " of " + place.node + ", which has " +
                              std::to_string(node->devices.size()) + ": correct places");
    }
    const DeviceId id{.node = static_cast<int>(node - nodes.nodes.data()), .device = place.device};
    memories.push_back(usable_memory(nodes, id, config.gpu_memory_utilization));
  }
  return memories;
}

// A replica that is asked for, and what there is for it.
struct Site {
  ReplicaShape shape;
  int64_t memory_bytes = 0;  // MemoryRequest::memory_bytes
  std::vector<int64_t> memory_by_rank = {};  // MemoryRequest::memory_by_rank
  std::string held = {};     // MemoryRequest::held
  bool apart = false;        // that is a rank's own
  int cores = 0;             // that `ranks` ranks share
  int ranks = 1;
};

// On this machine, or where the configuration says.
Result<std::vector<Site>> configured_sites(const ServePlan& plan, const Cluster* nodes) {
  const ServeConfig& config = plan.config;
  int ranks = 0;
  int count = 0;
  for (const ReplicaShape& shape : config.shapes()) {
    ranks += shape.tensor_parallel_size * shape.pipeline_parallel_size * shape.count;
    count += shape.count;
  }
  int64_t memory_bytes = (plan.machine.memory_bytes - kMemoryReserve) / count;
  if (config.device == "cuda" && config.clustered()) {
    if (!config.kv_cache_memory_bytes && nodes == nullptr) {
      return invalid_argument("with listen and device cuda, describe the machines with cluster, or give "
                              "kv-cache-memory-bytes: this machine does not know how much memory the nodes' GPUs have");
    }
    memory_bytes = kUnknownMemory;  // each rank finds out before it loads
  } else if (config.device == "cuda") {
    ASSIGN_OR_RETURN(memory_bytes, gpu_memory(config, plan.machine, ranks));
  }
  std::string held;
  if (config.device == "cuda" && !config.clustered()) held = held_memory(config, plan.machine, ranks);
  std::vector<Site> sites;
  for (const ReplicaShape& shape : config.shapes()) {
    Site site{.shape = shape, .memory_bytes = memory_bytes, .held = held, .cores = plan.machine.cores, .ranks = ranks};
    if (config.clustered()) {
      ReplicaSpec spec;
      spec.places = shape.places;
      site.ranks = std::ranges::max(node_shares(spec), {}, &NodeShare::ranks).ranks;
      if (config.device == "cuda" && nodes != nullptr) {
        ASSIGN_OR_RETURN(site.memory_by_rank, gpu_memories(config, shape, *nodes));
      }
    }
    sites.insert(sites.end(), static_cast<size_t>(shape.count), site);
  }
  return sites;
}

// A described node is this machine: no more than it has.
Status settle_here(const ServePlan& plan, Site* site) {
  const bool gpu = plan.config.device == "cuda";
  if (gpu && visible_devices() != nullptr) {
    return unsupported("CUDA_VISIBLE_DEVICES is set, and a plan counts all GPUs of the machine: unset it");
  }
  for (size_t rank = 0; rank < site->shape.places.size(); ++rank) {
    RankPlace& place = site->shape.places[rank];
    if (gpu && place.device >= static_cast<int>(plan.machine.gpus.size())) {
      return invalid_argument("the plan uses GPU " + std::to_string(place.device) + " and this machine has " +
                              std::to_string(plan.machine.gpus.size()) + ": correct the cluster file");
    }
    place.node = kThisMachine;
    const int64_t share = (plan.machine.memory_bytes - kMemoryReserve) / site->ranks;
    if (!gpu) site->memory_by_rank[rank] = std::min(site->memory_by_rank[rank], share);
  }
  site->cores = std::min(site->cores, plan.machine.cores);
  return {};
}

// Where the planner says.
Result<std::vector<Site>> placed_sites(const ServePlan& plan) {
  const Placement& placement = *plan.placement;
  const Cluster& cluster = placement.cluster;
  std::map<int, int> ranks_of;  // by node, of all replicas
  for (const PlacedReplica& replica : placement.plan.replicas) {
    for (const DeviceId& id : replica.devices) ++ranks_of[id.node];
  }
  if (ranks_of.size() > 1 && !plan.config.clustered()) {
    return invalid_argument("the plan has ranks on " + std::to_string(ranks_of.size()) +
                            " nodes: give listen, for their agents to come to, or one node with --nodes");
  }
  std::vector<Site> sites;
  for (const PlacedReplica& replica : placement.plan.replicas) {
    Site site{.shape = shape_of(placement, replica), .apart = true, .cores = INT32_MAX};
    for (const DeviceId& id : replica.devices) {
      const Node& node = cluster.nodes[static_cast<size_t>(id.node)];
      const bool of_gpu = kind_of(cluster, id).gpu;
      const int cores = of_gpu ? node.cores : static_cast<int>(node.devices.size());
      const int sharing = of_gpu ? 1 : ranks_of[id.node];
      const int64_t usable = usable_memory(cluster, id, plan.config.gpu_memory_utilization);
      site.memory_by_rank.push_back(usable / sharing);
      site.cores = std::min(site.cores, cores);
      site.ranks = std::max(site.ranks, ranks_of[id.node]);
    }
    if (!plan.config.clustered()) RETURN_IF_ERROR(settle_here(plan, &site));
    sites.push_back(std::move(site));
  }
  return sites;
}

// What CUDA, its libraries and recorded steps take of each GPU: the most that was measured for this program's
// calibration.
int64_t gpu_runtime_bytes(const ReplicaShape& shape) {
  const Calibration measured = shipped_calibration();
  double device = 0;
  double group = 0;
  for (const DeviceCalibration& each : measured.devices) {
    device = std::max(device, each.context_bytes + each.graph_bytes);
  }
  for (const LinkCalibration& each : measured.links) {
    if (shape.tensor_parallel_size > 1) group = std::max(group, each.library_bytes);
    if (shape.pipeline_parallel_size > 1) group = std::max(group, each.stage_bytes);
  }
  return static_cast<int64_t>(device + group);
}

Result<PlannedReplica> plan_replica(const ServePlan& plan, const Site& site) {
  const ServeConfig& config = plan.config;
  const ReplicaShape& shape = site.shape;
  const bool gpu = config.device == "cuda";
  const Checkpoint& checkpoint = *plan.model.checkpoint;
  PlannedReplica replica;
  ReplicaSpec& spec = replica.spec;
  spec.tensor_parallel_size = shape.tensor_parallel_size;
  spec.pipeline_parallel_size = shape.pipeline_parallel_size;
  spec.stage_layers = shape.stage_layers;
  spec.places = shape.places;
  RETURN_IF_ERROR(check_shape(spec));
  ASSIGN_OR_RETURN(replica.shards, plan_shards(checkpoint.description(), spec));
  RETURN_IF_ERROR(check_shard_formats(checkpoint, replica.shards));
  MemoryRequest request{.tensor_parallel_size = shape.tensor_parallel_size,
                        .pipeline_parallel_size = shape.pipeline_parallel_size,
                        .gpu = gpu,
                        .apart = site.apart,
                        .dtype = config.dtype,
                        .kv_cache_dtype = config.kv_cache_dtype,
                        .block_tokens = static_cast<int>(*config.block_size),
                        .slots = static_cast<int>(*config.max_num_seqs),
                        .step_tokens_max = static_cast<int>(*config.max_num_batched_tokens),
                        .context_max = std::nullopt,
                        .kv_bytes_per_rank = config.kv_cache_memory_bytes,
                        .memory_bytes = site.memory_bytes,
                        .memory_by_rank = site.memory_by_rank,
                        .held = site.held};
  if (gpu) {
    request.runtime_bytes = gpu_runtime_bytes(shape);
    request.receiver_bytes = kNcclReceiverBytes;
  }
  if (config.max_model_len) request.context_max = static_cast<int>(*config.max_model_len);
  ASSIGN_OR_RETURN(replica.memory, plan_memory(checkpoint, replica.shards, request));

  if (config.clustered()) {
    spec.ports = config.ports;
    for (const RankMemory& rank : replica.memory.ranks) {
      // A GPU's pages take what is left, unless so many were asked for.
      const bool pages_count = !gpu || config.kv_cache_memory_bytes;
      const int64_t pages = rank.kv_per_token * replica.memory.kv_blocks * request.block_tokens;
      spec.rank_memory_bytes.push_back(rank.fixed() + (pages_count ? pages : 0));
    }
  }
  spec.model = std::filesystem::absolute(plan.model.path).string();
  spec.load_format = config.load_format;
  spec.device = config.device;
  spec.dtype = config.dtype;
  spec.kv_cache_dtype = config.kv_cache_dtype;
  spec.slots = request.slots;
  spec.step_tokens_max = std::max(request.step_tokens_max, request.slots);
  spec.waiting_max = config.max_waiting_requests;
  spec.block_tokens = request.block_tokens;
  spec.kv_blocks = gpu && !config.kv_cache_memory_bytes ? 0 : replica.memory.kv_blocks;
  spec.step_seconds = std::max(config.step_timeout, 0.1);
  spec.memory_share = config.gpu_memory_utilization;
  spec.memory_reserve = gpu ? kGpuLateReserve : 0;
  spec.deterministic = config.deterministic;
  spec.prefix_caching = !config.no_prefix_caching;
  spec.threads = config.threads_per_rank > 0 ? static_cast<int>(config.threads_per_rank)
                                             : std::max(1, site.cores / site.ranks);
  spec.spin = gpu || spec.threads * site.ranks <= site.cores;
  return replica;
}

// Where ranks on this machine's cores hinder each other.
void note_shared_cores(ServePlan* plan) {
  int threads = 0;
  for (const PlannedReplica& replica : plan->replicas) threads += replica.spec.threads * replica.spec.ranks();
  if (threads <= plan->machine.cores || plan->config.device != "cpu" || plan->config.clustered()) return;
  plan->notes.push_back(std::to_string(threads) + " rank threads share " + std::to_string(plan->machine.cores) + " cores");
}

std::vector<std::string> all_notes(const ServePlan& plan) {
  std::vector<std::string> notes = plan.notes;
  if (plan.placement) std::ranges::move(all_notes(*plan.placement), std::back_inserter(notes));
  return notes;
}

std::string range_text(const IndexRange& range) {
  return std::to_string(range.begin) + "-" + std::to_string(range.end - 1);
}

}  // namespace

bool needs_nodes(const ServeConfig& config) {
  if (config.gathered()) return true;
  if (!kBuiltWithCuda || !config.clustered() || config.placed()) return false;
  return config.device == "auto" || (config.device == "cuda" && !config.kv_cache_memory_bytes);
}

Result<std::string> device_of_places(const ServeConfig& config, const Cluster& nodes) {
  std::string with;  // the name of a node
  std::string without;
  for (const ReplicaShape& shape : config.shapes()) {
    for (const RankPlace& place : shape.places) {
      ASSIGN_OR_RETURN(const Node* node, node_of(place, nodes));
      const bool gpus = std::ranges::any_of(node->devices, [&](const Device& device) {
        const DeviceKind& kind = kind_of(nodes, device);
        return kind.gpu && backend_runs_on(kind);
      });
      (gpus ? with : without) = place.node;
    }
  }
  if (!with.empty() && !without.empty()) {
    return unsupported("one server runs on one kind of device, and " + with + " has GPUs where " + without +
                       " has none that the CUDA backend runs on: give --device cpu, or other places");
  }
  return std::string(with.empty() ? "cpu" : "cuda");
}

Result<ServePlan> make_serve_plan(const ServeConfig& config, const Cluster* nodes) {
  ServePlan plan;
  plan.config = config;
  // With `listen` ranks run elsewhere, and a driver that hangs here must not hold up a coordinator.
  plan.machine = config.clustered() ? discover_machine(nullptr) : discover_machine();
  if (config.placed()) {
    const auto placement = std::make_shared<Placement>();
    if (nodes != nullptr) placement->cluster = *nodes;
    RETURN_IF_ERROR(make_placement(config, placement.get()));
    ASSIGN_OR_RETURN(plan.config.device, placed_device(*placement));
    plan.placement = placement;
  } else {
    const char* visible = visible_devices();
    plan.notes = gpu_notes(config, plan.machine, visible);
    plan.machine.gpus = visible_gpus(plan.machine.gpus, visible);
    ASSIGN_OR_RETURN(plan.config.device, choose_device(config, plan.machine, nodes, &plan.notes));
  }
  settle(&plan.config);
  const bool gpu = plan.config.device == "cuda";
  if (gpu && !cuda_block_is_fast(*plan.config.block_size)) {
    plan.notes.push_back("GPUs have no fast attention for KV blocks of " + std::to_string(*plan.config.block_size) +
                         " tokens: use --block-size 16, 32 or 64");
  }
  ASSIGN_OR_RETURN(plan.model,
                   find_model(config.model, config.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto));
  if (gpu) {
    const Status runs = check_gpu_model(plan.model.checkpoint->description());
    if (!runs.ok()) return unsupported(runs.message() + (plan.placement ? ": plan again on cores" : ": use --device cpu"));
  }
  ASSIGN_OR_RETURN(const std::vector<Site> sites, plan.placement ? placed_sites(plan) : configured_sites(plan, nodes));
  for (const Site& site : sites) {
    ASSIGN_OR_RETURN(plan.replicas.emplace_back(), plan_replica(plan, site));
  }
  plan.context_max = INT32_MAX;
  for (const PlannedReplica& replica : plan.replicas) {
    plan.context_max = std::min(plan.context_max, replica.memory.context_max);
  }
  int first_device = 0;
  for (size_t i = 0; i < plan.replicas.size(); ++i) {
    ReplicaSpec& spec = plan.replicas[i].spec;
    spec.replica = static_cast<uint32_t>(i);
    spec.context_max = plan.context_max;
    if (spec.places.empty()) spec.first_device = first_device;
    first_device += spec.ranks();
  }
  note_shared_cores(&plan);
  return plan;
}

std::string describe(const ServePlan& plan) {
  const ModelDescription& model = plan.model.checkpoint->description();
  std::ostringstream out;
  // A plan that was read has no figures.
  const bool planned = plan.placement && !plan.placement->plan.models.empty();
  if (planned) out << plan_text(*plan.placement) << "\n";
  char parameters[32];
  std::snprintf(parameters, sizeof parameters, "%.1f M", static_cast<double>(model.parameters()) / 1e6);
  out << "model     " << default_model_name(plan.config) << ": " << model.architecture << ", " << parameters
      << " parameters, " << model.layers.size() << " layers, " << info(plan.model.checkpoint->main_format()).name
      << "\n";
  out << "machine   " << plan.machine.processor << ", " << plan.machine.cores << " cores, "
      << readable_bytes(plan.machine.memory_bytes) << " free\n";
  for (const Gpu& gpu : plan.machine.gpus) {
    out << "gpu       " << gpu.name << ", " << readable_bytes(gpu.memory_free) << " of "
        << readable_bytes(gpu.memory_total) << " free\n";
  }
  for (const PlannedReplica& replica : plan.replicas) {
    const ReplicaSpec& spec = replica.spec;
    const int64_t tokens = int64_t{replica.memory.kv_blocks} * spec.block_tokens;
    out << "replica " << spec.replica << " tensor parallel " << spec.tensor_parallel_size << " x pipeline parallel "
        << spec.pipeline_parallel_size << ": weights " << readable_bytes(replica.memory.weights()) << ", KV cache "
        << tokens << " tokens (" << readable_bytes(tokens * replica.memory.kv_per_token()) << ") = "
        << tokens / plan.context_max << " requests of full length\n";
    for (size_t rank = 0; rank < replica.shards.size(); ++rank) {
      const ShardPlan& shard = replica.shards[rank];
      out << "  rank " << rank;
      if (!spec.places.empty()) out << " on " << spec.places[rank].node << ":" << spec.places[rank].device;
      out << "  layers " << range_text(shard.layers) << ", heads " << range_text(shard.q_heads)
          << ", KV heads " << range_text(shard.kv_heads) << ", weights "
          << readable_bytes(replica.memory.ranks[rank].weights) << "\n";
    }
  }
  out << "context   " << plan.context_max << " tokens";
  if (plan.context_max < model.context_max && !plan.config.max_model_len) {
    out << ", lowered from the model's " << model.context_max << " to what fits in memory";
  }
  out << "\n";
  for (const std::string& note : planned ? plan.notes : all_notes(plan)) out << "note      " << note << "\n";
  return out.str();
}

void log_notes(const ServePlan& plan) {
  for (const std::string& note : all_notes(plan)) log_warning("plan: " + note);
}

std::string default_model_name(const ServeConfig& config) {
  if (!config.served_model_name.empty()) return config.served_model_name;
  const std::filesystem::path path(config.model);
  if (path.extension() == ".gguf") return path.stem().string();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return config.model;  // a hub name
  const std::filesystem::path absolute = std::filesystem::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute.filename().string() : absolute.parent_path().filename().string();
}

}  // namespace skein
